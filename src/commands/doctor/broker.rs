//! The brokers, and the topics on them.

use std::sync::Arc;

use anyhow::Result;
use processors::inspect::{self, Extent, Log};
use producers::{
    brokers::{self, Broker},
    kafka::Kafka,
    topics::{self, Described},
};
use schemas::{codec::EVENT_BYTES_MAX, topics::TOPICS};
use tokio::task::block_in_place;

use super::Report;
use crate::output;

/// Whether a broker answers.
pub(super) async fn check(kafka: &Kafka, report: &mut Report) -> Result<bool> {
    let cluster = match brokers::cluster(kafka).await {
        Ok(cluster) => cluster,
        Err(error) => {
            report.failed("broker", output::with_cause(&error))?;
            return Ok(false);
        }
    };
    for broker in &cluster.brokers {
        let Broker { id, address, .. } = broker;
        report.ok(
            format_args!("broker {id}"),
            format_args!("at {address}, cluster {}", cluster.id),
        )?;
        creates_topics(broker, report)?;
    }
    for topic in TOPICS {
        check_topic(kafka, &topic.full_name(&kafka.prefix), report).await?;
    }
    Ok(true)
}

fn creates_topics(broker: &Broker, report: &mut Report) -> Result<()> {
    const SETTING: &str = "auto.create.topics.enable";
    let check = format_args!("broker {}, {SETTING}", broker.id);
    let settings = match &broker.settings {
        Ok(settings) => settings,
        Err(why) => {
            return report.warning(
                check,
                format_args!("not known, since it does not tell its settings: {why}"),
            );
        }
    };
    match settings.iter().find(|(name, _)| name == SETTING) {
        Some((_, value)) if value == "false" => report.ok(check, value),
        _ => report.warning(
            check,
            "is not false: who mistypes a name gets a topic of that name; set it to false in the broker's settings",
        ),
    }
}

async fn check_topic(kafka: &Kafka, name: &str, report: &mut Report) -> Result<()> {
    let check = format_args!("topic {name}");
    let described = match topics::describe(kafka, name).await {
        Ok(Some(described)) => described,
        Ok(None) => return report.failed(check, "does not exist: run `millrace topics apply`"),
        Err(error) => return report.failed(check, output::with_cause(&error)),
    };
    let differences = differences(&described);
    if differences.is_empty() {
        let partitions = described.copies.len();
        report.ok(
            check,
            format_args!("{partitions} partitions, settings as they have to be"),
        )?;
    } else {
        let differences = differences.join("; ");
        report.failed(
            check,
            format_args!(
                "{differences}; settings are mended with `kafka-configs --alter --topic {name} --add-config …`"
            ),
        )?;
    }
    check_copies(name, &described, report)?;
    check_beginning(kafka, name, report)
}

/// In words, how it differs from what it has to be, and which of the broker's defaults it must not have.
fn differences(described: &Described) -> Vec<String> {
    // librdkafka's limit for a record: the event, its key and its headers.
    const BYTES_MIN: usize = EVENT_BYTES_MAX + 10_000;
    let mut differences = described.differences.clone();
    let bytes = described.setting("max.message.bytes");
    if bytes.parse().is_ok_and(|bytes: usize| bytes < BYTES_MIN) {
        differences.push(format!(
            "max.message.bytes is {bytes}, should be {BYTES_MIN} or more"
        ));
    }
    if described.setting("unclean.leader.election.enable") == "true" {
        differences.push(
            "unclean.leader.election.enable is \"true\", should be \"false\": acknowledged records could be lost"
                .to_owned(),
        );
    }
    differences
}

fn check_copies(name: &str, described: &Described, report: &mut Report) -> Result<()> {
    let check = format_args!("topic {name}, copies");
    let copies = &described.copies;
    let needed: usize = described
        .setting("min.insync.replicas")
        .parse()
        .unwrap_or(1);
    let partitions = |is_so: &dyn Fn(&topics::Copies) -> bool| -> Vec<i32> {
        let such = copies.iter().filter(|copies| is_so(copies));
        such.map(|copies| copies.partition).collect()
    };
    let stuck = partitions(&|copies| !copies.has_leader || copies.in_sync < needed);
    if !stuck.is_empty() {
        return report.failed(
            check,
            format_args!(
                "partitions {stuck:?} take no records, for want of a leader or of {needed} copies in sync: start the brokers that are away"
            ),
        );
    }
    let thin = partitions(&|copies| copies.in_sync < copies.wanted);
    if !thin.is_empty() {
        return report.warning(
            check,
            format_args!(
                "partitions {thin:?} have fewer in sync than they should: is a broker away?"
            ),
        );
    }
    let wanted = copies.iter().map(|copies| copies.wanted).min().unwrap_or(0);
    match wanted {
        0 | 1 => report.warning(
            check,
            "one of each partition: it survives kill -9, but not the loss of power or disk; three brokers would",
        ),
        _ if wanted <= needed => report.warning(
            check,
            format_args!("{wanted} of each partition, and min.insync.replicas is {needed}: nothing can be written while any broker is away"),
        ),
        _ => report.ok(
            check,
            format_args!("{wanted} of each partition, min.insync.replicas is {needed}"),
        ),
    }
}

/// Tables are a fold of the whole log: it has to begin at 0.
fn check_beginning(kafka: &Kafka, name: &str, report: &mut Report) -> Result<()> {
    let check = format_args!("topic {name}, log");
    let extents =
        block_in_place(|| Log::with(&Arc::new(inspect::consumer(kafka)?), name)?.extents());
    let extents = match extents {
        Ok(extents) => extents,
        Err(error) => return report.failed(check, output::with_cause(&error)),
    };
    let cut: Vec<_> = extents
        .iter()
        .filter(|extent| extent.first_offset > 0)
        .collect();
    if cut.is_empty() {
        let records: i64 = extents.iter().map(Extent::records).sum();
        let records = output::count(records.unsigned_abs(), "record");
        return report.ok(check, format_args!("{records}, from offset 0 on"));
    }
    let begin: Vec<_> = cut
        .iter()
        .map(|extent| format!("{} at {}", extent.partition, extent.first_offset))
        .collect();
    report.failed(
        check,
        format_args!(
            "the beginning is gone, partitions begin later ({}): the tables can no longer be rebuilt from it; keep a backup of them, and see who deletes records",
            begin.join(", ")
        ),
    )
}
