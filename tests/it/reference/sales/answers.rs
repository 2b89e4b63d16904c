//! What callers were told, held against the log: every lie is found, whichever process told it.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use super::{History, Request, Verdict, order::Heard};
use crate::reference::SHOWN_MAX;

/// What became of a request, as its caller saw it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Just before it was sent.
    pub asked_at: Instant,
    /// Just after the answer came.
    pub answered_at: Instant,
    /// What was wanted.
    pub request: Request,
    /// The status; 0 if the connection broke before an answer came.
    pub status: u16,
    /// The code of a reservation; else the reason that was given, or nothing.
    pub said: String,
    /// The offset that the answer names.
    pub position: Option<i64>,
}

/// What an answer claims about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// A record has this verdict.
    Verdict,
    /// It was refused without a record.
    Local,
    /// No record counts.
    NotApplied,
    /// Nothing.
    Unknown,
    /// What no answer may be.
    Nonsense,
}

impl Answer {
    pub(super) fn claim(&self) -> Claim {
        match (self.status, self.said.as_str(), self.position) {
            (0, _, None) | (503, "outcome_unknown", _) => Claim::Unknown,
            (503, "not_applied", _) => Claim::NotApplied,
            (200 | 400..500, _, Some(_)) => Claim::Verdict,
            (409, _, None) => Claim::Local,
            (400..500, _, None) => Claim::NotApplied,
            _ => Claim::Nonsense,
        }
    }

    /// How it is shown where it is wrong.
    pub(super) fn brief(&self) -> String {
        let Self {
            request,
            status,
            said,
            position,
            ..
        } = self;
        format!("{request:?} got {status} {said:?} at {position:?}")
    }
}

impl History {
    /// Holds answers against the log: verdicts, order, refusals without the log, totals.
    ///
    /// # Panics
    /// If callers were told what is not so.
    pub fn check(&self, answers: &[Answer]) {
        let lies = self.lies(answers);
        let shown = lies.len().min(SHOWN_MAX);
        assert!(
            lies.is_empty(),
            "callers were told what is not so: {} times\n{}",
            lies.len(),
            lies[..shown].join("\n")
        );
    }

    pub(super) fn lies(&self, answers: &[Answer]) -> Vec<String> {
        let mut lies = Vec::new();
        for answer in answers {
            if let Err(why) = self.hold(answer) {
                lies.push(format!("{}: {why}", answer.brief()));
            }
        }
        let heard = Heard::of(answers);
        lies.extend(self.applied_after_all(answers, &heard));
        lies.extend(heard.out_of_order(answers));
        lies.extend(self.unjustified(answers, &heard));
        lies.extend(self.oversold(answers));
        lies
    }

    /// Whether the record says what the answer says.
    fn hold(&self, answer: &Answer) -> Result<(), String> {
        let claim = answer.claim();
        if claim == Claim::Nonsense {
            return Err("is no answer to a request".to_owned());
        }
        let Some(offset) = answer.position else {
            return Ok(());
        };
        let judged = self.judged(offset).ok_or("there is no such record")?;
        if judged.request.as_ref() != Some(&answer.request) {
            return Err(format!("the record asks for {:?}", judged.request));
        }
        let is_so = match (claim, &judged.verdict) {
            (Claim::Unknown, _) => true,
            (Claim::NotApplied, verdict) => *verdict == Verdict::Void,
            (_, Verdict::Reserved { code, .. }) => answer.status == 200 && *code == answer.said,
            (_, Verdict::Purchased { .. }) => answer.status == 200,
            (_, Verdict::Refused(reason)) => {
                *reason == answer.said && is_status_of(answer.status, reason)
            }
            (_, Verdict::None | Verdict::Void) => false,
        };
        is_so
            .then_some(())
            .ok_or_else(|| format!("the log says {:?}", judged.verdict))
    }

    /// Requests that were said not to have come to the log, but did. Requests with the same content cannot be told
    /// apart, but counted: each record needs an answer that owns up to it, or one that nobody knows the outcome of and
    /// that was asked for before the record came.
    fn applied_after_all(&self, answers: &[Answer], heard: &Heard) -> Vec<String> {
        let owned: HashSet<_> = answers
            .iter()
            .filter_map(|answer| answer.position)
            .collect();
        let mut orphans: HashMap<&Request, Vec<i64>> = HashMap::new();
        for judged in &self.judged {
            let counts = judged.verdict != Verdict::Void && !owned.contains(&judged.offset);
            if let Some(request) = judged.request.as_ref().filter(|_| counts) {
                orphans.entry(request).or_default().push(judged.offset);
            }
        }
        let mut unknown: HashMap<&Request, Vec<i64>> = HashMap::new();
        for answer in answers {
            if answer.claim() == Claim::Unknown && answer.position.is_none() {
                let after = heard.newest_before(answer.asked_at);
                unknown.entry(&answer.request).or_default().push(after);
            }
        }
        for (request, offsets) in &mut orphans {
            disown(offsets, unknown.get(request).map_or(&[], |after| after));
        }
        answers
            .iter()
            .filter(|answer| matches!(answer.claim(), Claim::NotApplied | Claim::Local))
            .filter_map(|answer| {
                let offsets = orphans.get(&answer.request)?;
                let is_lie = !offsets.is_empty();
                is_lie.then(|| format!("{}: but there is {offsets:?}", answer.brief()))
            })
            .collect()
    }
}

/// Leaves of these records, given in their order, those that cannot be of a request whose outcome is unknown. One such
/// request may be any one record after the place that is given.
fn disown(offsets: &mut Vec<i64>, unknown_after: &[i64]) {
    let mut taken = 0;
    offsets.retain(|offset| {
        let may_be_its = unknown_after.iter().filter(|after| *after < offset);
        let is_owned = may_be_its.count() > taken;
        taken += usize::from(is_owned);
        !is_owned
    });
}

fn is_status_of(status: u16, reason: &str) -> bool {
    match reason {
        "key_reused" => status == 422,
        "no_such_item" => (400..500).contains(&status),
        _ => status == 409,
    }
}
