//! `millrace schemas`: whether this build can read what was written before it.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use processors::readable::{Found, READERS, Unreadable};
use schemas::{
    codec,
    registry::{Registry, RegistryError},
    topics::{TOPICS, Topic, subject},
};
use tokio::{runtime::Handle, task::block_in_place};

use super::report::Report;
use crate::{
    cli::{Connection, Schemas, SchemasArgs, SchemasCheck},
    output,
};

pub async fn schemas(connection: &Connection, args: &SchemasArgs) -> Result<()> {
    match &args.command {
        Schemas::Check(args) => check(connection, args).await,
    }
}

async fn check(connection: &Connection, args: &SchemasCheck) -> Result<()> {
    let (kafka, registry) = (connection.kafka(), connection.registry()?);
    let mut report = Report::new(args.json);
    check_registered(&registry, &kafka.prefix, &mut report).await?;
    if !args.against_log {
        return report.end();
    }
    for (topic, read) in READERS {
        let name = topic.full_name(&kafka.prefix);
        let progress = progress_bar(&name);
        let runtime = Handle::current();
        let look = |records, of| {
            progress.set_length(of);
            progress.set_position(records);
        };
        let found = block_in_place(|| read(&kafka, &registry, &runtime, &look));
        progress.finish_and_clear();
        tell(&name, found, &mut report)?;
    }
    report.end()
}

/// Drawn on a terminal only.
fn progress_bar(topic: &str) -> ProgressBar {
    const STYLE: &str = "{msg} {bar:30} {human_pos}/{human_len} read, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(STYLE).expect("the template is well-formed");
    let bar = ProgressBar::new(0).with_style(style);
    bar.with_message(topic.to_owned())
}

fn tell(topic: &str, found: Result<Found>, report: &mut Report) -> Result<()> {
    let check = format!("log {topic}");
    let found = match found {
        Ok(found) => found,
        Err(error) => return report.failed(check, output::with_cause(&error)),
    };
    let records = output::count(found.records, "record");
    let strays = match found.strays {
        0 => String::new(),
        strays => format!(
            ", {} of them no event of any build",
            output::grouped(strays)
        ),
    };
    match found.first_unreadable {
        None => report.ok(check, format_args!("{records}{strays}, none unreadable")),
        Some(Unreadable {
            partition,
            offset,
            why,
        }) => report.failed(
            check,
            format_args!(
                "{records}{strays}, {} unreadable; the first is {topic}/{partition}@{offset}: {why}",
                output::grouped(found.unreadable)
            ),
        ),
    }
}

/// Checks the schemas in the registry: a line a topic.
pub(super) async fn check_registered(
    registry: &Registry,
    prefix: &str,
    report: &mut Report,
) -> Result<()> {
    for topic in TOPICS {
        let subject = subject(&topic.full_name(prefix));
        let check = format!("schema {subject}");
        match judge(registry, topic, &subject).await {
            Ok(Judged::Good(found)) => report.ok(check, found)?,
            Ok(Judged::Doubtful(found)) => report.warning(check, found)?,
            Ok(Judged::Bad(found)) => report.failed(check, found)?,
            Err(error) => report.failed(check, error)?,
        }
    }
    Ok(())
}

enum Judged {
    Good(String),
    Doubtful(String),
    Bad(String),
}

/// Whether this build can read every version of a schema, has its own among them, and is safe from worse to come.
async fn judge(registry: &Registry, topic: &Topic, subject: &str) -> Result<Judged, RegistryError> {
    let mut own = None;
    let versions = registry.versions(subject).await?;
    if versions.is_empty() {
        return Ok(Judged::Bad(
            "nothing is registered: run `millrace topics apply`".to_owned(),
        ));
    }
    for &version in &versions {
        let (id, text) = registry.version(subject, version).await?;
        if registry.schema(id).await?.is_none() {
            return Ok(Judged::Bad(format!(
                "version {version} has id {id}, and the registry does not know that id: it has lost data; restore it"
            )));
        }
        match codec::is_own(topic, &text) {
            Ok(is_own) => own = own.or_else(|| is_own.then_some((version, id))),
            Err(why) => {
                return Ok(Judged::Bad(format!(
                    "version {version}, id {id}, cannot be read by this build ({why}): deploy the build that registered it"
                )));
            }
        }
    }
    let wanted = topic.compatibility.as_str();
    let demanded = registry.demanded(subject).await?;
    let demanded = demanded.as_deref().unwrap_or("not set");
    if demanded != wanted {
        return Ok(Judged::Bad(format!(
            "compatibility is {demanded}, should be {wanted}, or a version may come that breaks readers: run `millrace topics apply`"
        )));
    }
    let count = output::count(versions.len() as u64, "version");
    Ok(match own {
        Some((version, id)) => Judged::Good(format!(
            "{count}, all of them readable; this build writes version {version}, id {id}; {wanted}"
        )),
        None => Judged::Doubtful(format!(
            "{count}, and this build's is not among them: it registers it when it first writes, or `millrace topics apply` does"
        )),
    })
}
