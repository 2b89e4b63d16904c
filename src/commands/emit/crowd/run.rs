//! The run of a crowd: what is due is sent, what the log says is counted.

use std::{
    collections::{HashMap, VecDeque},
    future::{Future, pending},
    pin::{Pin, pin},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use processors::sales::{Passed, Verdict};
use producers::{
    append::Outcome as Appended,
    sales::{Stamp, Wish},
    writer::{Context as Origin, EventWriter},
};
use schemas::sales::{Code, SaleEvent};
use tokio::{
    signal,
    time::{Instant, sleep_until},
};

use super::{
    follower::{Follower, Heard, PassedEvent},
    outcome::Outcome,
};
use crate::output;

/// Events in a batch.
const BATCH_MAX: usize = 1_000;
/// Requests without a verdict. With more, the next ones wait; the wait counts as theirs.
const WAITING_MAX: usize = 100_000;
/// How long verdicts may stay away while requests wait for theirs.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest time from one request to the next.
const INTERVAL_MAX: Duration = Duration::from_secs(86_400);

/// A run under way.
pub(super) struct Run<'a, W> {
    writer: &'a EventWriter<SaleEvent>,
    origin: Origin,
    wishes: W,
    wishes_left: u64,
    /// Codes to buy with, and since when: they go first.
    codes: VecDeque<(Instant, Code)>,
    interval: Duration,
    /// When the next request is due, unless there is none to make.
    next_at: Instant,
    rules_seen: i64,
    /// By their nonces.
    waiting: HashMap<i64, Waiting>,
    under_way: VecDeque<UnderWay>,
    is_stopping: bool,
    heard_at: Instant,
    /// What the reading complained of last.
    trouble: String,
    outcome: Outcome,
}

/// The acknowledgement of a batch, to come.
type UnderWay = Pin<Box<dyn Future<Output = Appended>>>;

/// A request without a verdict.
struct Waiting {
    due: Instant,
    buys: bool,
}

impl<'a, W: Iterator<Item = Wish>> Run<'a, W> {
    /// A run of this many wishes, at so many requests a second, from now on.
    pub(super) fn new(
        writer: &'a EventWriter<SaleEvent>,
        origin: Origin,
        (wishes, wishes_left): (W, u64),
        rate: f64,
        rules_seen: i64,
    ) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(INTERVAL_MAX);
        Self {
            writer,
            outcome: Outcome::new(writer.topic(), origin.trace.as_ref(), wishes_left),
            origin,
            wishes,
            wishes_left,
            codes: VecDeque::new(),
            interval: interval.min(INTERVAL_MAX),
            next_at: Instant::now(),
            rules_seen,
            waiting: HashMap::new(),
            under_way: VecDeque::new(),
            is_stopping: false,
            heard_at: Instant::now(),
            trouble: String::new(),
        }
    }

    /// Sends everything and waits for the verdicts; stops at the first failure, and at Ctrl-C.
    pub(super) async fn drive(mut self, follower: &mut Follower) -> Outcome {
        let bar = progress_bar(self.wishes_left);
        let mut interrupt = pin!(signal::ctrl_c());
        while !self.is_done() {
            tokio::select! {
                heard = follower.next() => match heard {
                    Ok(heard) => self.hear(heard),
                    Err(error) => {
                        self.stop(output::with_cause(&error));
                        break;
                    }
                },
                appended = oldest(&mut self.under_way) => self.take_note(&appended),
                () = sleep_until(self.next_at), if self.may_send() => self.send_due(),
                () = sleep_until(self.heard_at + PATIENCE), if !self.waiting.is_empty() => {
                    self.stop(format!("no verdict has come for {} s{}", PATIENCE.as_secs(), self.trouble));
                    break;
                }
                _ = &mut interrupt => {
                    // Who asks twice does not want to wait.
                    if self.is_stopping {
                        break;
                    }
                    interrupt.set(signal::ctrl_c());
                    self.stop("stopped by Ctrl-C".to_owned());
                }
            }
            self.show(&bar);
        }
        bar.finish_and_clear();
        self.outcome.end(self.waiting.len() as u64);
        self.outcome
    }

    fn is_done(&self) -> bool {
        let has_ended = self.is_stopping || !self.has_requests();
        // Those that were not written never have a verdict.
        let without_verdict = self.waiting.len() as u64;
        has_ended && self.under_way.is_empty() && without_verdict <= self.outcome.not_written
    }

    fn has_requests(&self) -> bool {
        self.wishes_left > 0 || !self.codes.is_empty()
    }

    fn may_send(&self) -> bool {
        !self.is_stopping && self.has_requests() && self.waiting.len() < WAITING_MAX
    }

    fn stop(&mut self, why: String) {
        self.is_stopping = true;
        self.outcome.error.get_or_insert(why);
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Passed(settled) => settled.iter().for_each(|settled| self.settle(settled)),
            Heard::Rules { rules_seen } | Heard::Started { rules_seen, .. } => {
                self.rules_seen = rules_seen;
            }
            Heard::Trouble(what) => self.trouble = format!(" ({what})"),
        }
    }

    fn settle(&mut self, settled: &PassedEvent) {
        let Some(waiting) = self.waiting.remove(&settled.nonce) else {
            return; // somebody else's
        };
        let now = Instant::now();
        self.heard_at = now;
        self.outcome.add(settled, now.duration_since(waiting.due));
        let Passed::Decided(decision) = settled.passed else {
            return;
        };
        if let (Verdict::Reserved { code, .. }, true) = (decision.verdict, waiting.buys) {
            self.codes.push_back((now, code));
        }
    }

    /// A verdict tells that its request is on the log; this tells of those that are not.
    fn take_note(&mut self, appended: &Appended) {
        self.under_way.pop_front();
        self.outcome.not_written += appended.not_written as u64;
        if let Some(failure) = appended.error.as_ref().or(appended.refusal.as_ref()) {
            self.stop(failure.to_string());
        }
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        if self.waiting.is_empty() {
            self.heard_at = now;
        }
        let mut events = Vec::new();
        while events.len() < BATCH_MAX
            && self.may_send()
            && let Some(event) = self.next_due(now)
        {
            events.push(event);
        }
        if events.is_empty() {
            return;
        }
        match self.writer.send(&events, Some(&self.origin)) {
            Ok(pending) => self.under_way.push_back(Box::pin(pending.outcome())),
            Err(refusal) => {
                self.outcome.not_written += events.len() as u64;
                self.stop(refusal.to_string());
            }
        }
    }

    /// The next request, if it is due; from then on it waits for its verdict.
    fn next_due(&mut self, now: Instant) -> Option<SaleEvent> {
        if self.next_at > now {
            return None;
        }
        let stamp = Stamp::now(self.rules_seen);
        let (due, buys, event) = match self.codes.pop_front() {
            Some((since, code)) => {
                self.outcome.purchases += 1;
                let due = since.max(self.next_at);
                (due, false, stamp.purchase(code, None))
            }
            None => {
                let wish = self.wishes.next()?;
                self.wishes_left -= 1;
                self.outcome.checkouts += 1;
                let event = stamp.checkout(wish.user_id, wish.item_id, None);
                (self.next_at, wish.buys, event)
            }
        };
        // What is late does not make the next ones late; only where there was nothing to send, turns have lapsed.
        let turn = if self.wishes_left > 0 {
            self.next_at
        } else {
            due
        };
        self.next_at = turn + self.interval;
        self.waiting.insert(stamp.nonce, Waiting { due, buys });
        Some(event)
    }

    fn show(&self, bar: &ProgressBar) {
        bar.set_position(self.outcome.checkouts);
        if !bar.is_hidden() {
            bar.set_message(self.outcome.in_brief());
        }
    }
}

async fn oldest(under_way: &mut VecDeque<UnderWay>) -> Appended {
    match under_way.front_mut() {
        Some(acknowledgement) => acknowledgement.await,
        None => pending().await,
    }
}

/// Drawn on a terminal only.
fn progress_bar(checkouts: u64) -> ProgressBar {
    const STYLE: &str = "{bar:30} {human_pos}/{human_len} checkouts, {msg}";
    let style = ProgressStyle::with_template(STYLE).expect("the template is well-formed");
    ProgressBar::new(checkouts).with_style(style)
}
