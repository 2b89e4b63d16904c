//! What became of the requests of a crowd.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, bail};
use processors::sales::{Passed, Verdict};
use producers::trace::Trace;
use schemas::{position::Position, sales::SaleId};
use serde::Serialize;
use tokio::time::Instant;

use super::{follower::PassedEvent, latencies::Latencies};
use crate::output;

/// So many sales are named one by one.
const NAMED_MAX: usize = 3;

/// Counts of requests, and what else there is to tell.
pub(super) struct Outcome {
    topic: String,
    trace_id: Option<String>,
    /// How many there would have been.
    checkouts_wanted: u64,
    pub(super) checkouts: u64,
    pub(super) purchases: u64,
    reserved: u64,
    purchased: u64,
    refused: BTreeMap<&'static str, u64>,
    void: u64,
    /// Certainly not on the log.
    pub(super) not_written: u64,
    /// Without a verdict, and perhaps on the log.
    unknown: u64,
    sales: BTreeSet<SaleId>,
    last_offset: Option<i64>,
    latencies: Latencies,
    began: Instant,
    took: Duration,
    /// What ended it early, in words.
    pub(super) error: Option<String>,
}

/// The same for programs.
#[derive(Serialize)]
struct Summary<'a> {
    requests: u64,
    checkouts: u64,
    purchases: u64,
    reserved: u64,
    purchased: u64,
    refused: &'a BTreeMap<&'static str, u64>,
    void: u64,
    not_written: u64,
    unknown: u64,
    sales: &'a BTreeSet<SaleId>,
    position: Option<String>,
    seconds: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Outcome {
    /// Nothing yet.
    pub(super) fn new(topic: &str, trace: Option<&Trace>, checkouts_wanted: u64) -> Self {
        Self {
            topic: topic.to_owned(),
            trace_id: trace.map(|trace| trace.id.to_string()),
            checkouts_wanted,
            checkouts: 0,
            purchases: 0,
            reserved: 0,
            purchased: 0,
            refused: BTreeMap::new(),
            void: 0,
            not_written: 0,
            unknown: 0,
            sales: BTreeSet::new(),
            last_offset: None,
            latencies: Latencies::default(),
            began: Instant::now(),
            took: Duration::ZERO,
            error: None,
        }
    }

    /// Counts a verdict that was known so long after its request was due.
    pub(super) fn add(&mut self, settled: &PassedEvent, took: Duration) {
        self.last_offset = self.last_offset.max(Some(settled.offset));
        self.latencies.add(took);
        let Passed::Decided(decision) = settled.passed else {
            self.void += 1;
            return;
        };
        self.sales.insert(decision.sale);
        match decision.verdict {
            Verdict::Reserved { .. } => self.reserved += 1,
            Verdict::Purchased { .. } => self.purchased += 1,
            Verdict::Refused(why) => *self.refused.entry(why.name()).or_default() += 1,
        }
    }

    /// It is over, and so many have no verdict.
    pub(super) fn end(&mut self, without_verdict: u64) {
        self.took = self.began.elapsed();
        self.unknown = without_verdict.saturating_sub(self.not_written);
    }

    /// For a line that changes.
    pub(super) fn in_brief(&self) -> String {
        format!(
            "{} reserved, {} bought, {} refused",
            output::grouped(self.reserved),
            output::grouped(self.purchased),
            output::grouped(self.refused_count())
        )
    }

    /// Prints it.
    ///
    /// # Errors
    /// If not all of it was done.
    pub(super) fn tell(&self, as_json: bool) -> Result<()> {
        if as_json {
            output::json(&self.summary())?;
        } else {
            output::lines(&self.in_words())?;
        }
        if let Some(error) = &self.error {
            bail!("{error}; {}", self.on_the_log());
        }
        if self.void > 0 {
            bail!(
                "{} void, as if not made: the broker's clock and this machine's are too far apart; set them right",
                output::count(self.void, "request")
            );
        }
        Ok(())
    }

    fn in_words(&self) -> String {
        let requests = self.requests();
        let per_second = u128::from(requests) * 1_000 / self.took.as_millis().max(1);
        let mut text = format!(
            "{} in {:.1} s, {per_second} a second: {}, {}{}\n",
            output::count(requests, "request"),
            self.took.as_secs_f64(),
            output::count(self.checkouts, "checkout"),
            output::count(self.purchases, "purchase"),
            self.position().map_or_else(String::new, |position| format!(
                ", last position {position}"
            )),
        );
        text.push_str(&format!("{}{}\n", self.in_brief(), self.reasons()));
        if !self.sales.is_empty() {
            text.push_str(&format!("{}\n", self.names_of_sales()));
        }
        let percentile = |percent| self.latencies.percentile_ms(percent);
        if let (Some(p50), Some(p99)) = (percentile(50), percentile(99)) {
            text.push_str(&format!(
                "verdict after {p50:.1} ms (p50), {p99:.1} ms (p99)\n"
            ));
        }
        text
    }

    fn summary(&self) -> Summary<'_> {
        Summary {
            requests: self.requests(),
            checkouts: self.checkouts,
            purchases: self.purchases,
            reserved: self.reserved,
            purchased: self.purchased,
            refused: &self.refused,
            void: self.void,
            not_written: self.not_written,
            unknown: self.unknown,
            sales: &self.sales,
            position: self.position(),
            seconds: self.took.as_secs_f64(),
            p50_ms: self.latencies.percentile_ms(50),
            p99_ms: self.latencies.percentile_ms(99),
            trace_id: self.trace_id.as_deref(),
            error: self.error.as_deref(),
        }
    }

    fn on_the_log(&self) -> String {
        let with_verdict = self.requests() - self.not_written - self.unknown;
        let unknown = match self.unknown {
            0 => String::new(),
            unknown => format!(" and perhaps {} more", output::grouped(unknown)),
        };
        format!(
            "on the log: {} with a verdict{unknown}; made: {} of {}; the same command again makes new ones",
            output::count(with_verdict, "request"),
            output::grouped(self.checkouts),
            output::count(self.checkouts_wanted, "checkout")
        )
    }

    fn requests(&self) -> u64 {
        self.checkouts + self.purchases
    }

    fn refused_count(&self) -> u64 {
        self.refused.values().sum()
    }

    fn reasons(&self) -> String {
        let reasons: Vec<_> = self
            .refused
            .iter()
            .map(|(reason, count)| format!("{reason} {}", output::grouped(*count)))
            .collect();
        if reasons.is_empty() {
            return String::new();
        }
        format!(" ({})", reasons.join(", "))
    }

    fn names_of_sales(&self) -> String {
        let names: Vec<_> = self.sales.iter().map(SaleId::to_string).collect();
        match &names[..] {
            [one] => format!("sale {one}"),
            few if few.len() <= NAMED_MAX => format!("sales {}", few.join(", ")),
            many => format!(
                "{} sales from {} to {}",
                output::grouped(many.len() as u64),
                many[0],
                many[many.len() - 1]
            ),
        }
    }

    /// That of the last request with a verdict.
    fn position(&self) -> Option<String> {
        let offset = self.last_offset?;
        let position = Position {
            topic: self.topic.clone(),
            partition: 0,
            offset,
        };
        Some(position.to_string())
    }
}
