//! What callers can tell each other: who heard an answer before somebody else asked has come first.

use std::{collections::HashMap, time::Instant};

use super::{Answer, History, Request, answers::Claim, fold::Fold};

/// Positions by the times at which they became known.
pub(super) struct Heard {
    /// When an answer came, and the newest position that was known then.
    newest: Vec<(Instant, i64)>,
    /// When a request was sent, and the oldest position of those sent then or later.
    oldest: Vec<(Instant, i64)>,
}

impl Heard {
    pub(super) fn of(answers: &[Answer]) -> Self {
        let known = answers
            .iter()
            .filter_map(|answer| Some((answer, answer.position?)));
        let mut newest: Vec<_> = known
            .clone()
            .map(|(answer, position)| (answer.answered_at, position))
            .collect();
        newest.sort_unstable();
        for index in 1..newest.len() {
            newest[index].1 = newest[index].1.max(newest[index - 1].1);
        }
        let mut oldest: Vec<_> = known
            .map(|(answer, position)| (answer.asked_at, position))
            .collect();
        oldest.sort_unstable();
        for index in (1..oldest.len()).rev() {
            oldest[index - 1].1 = oldest[index - 1].1.min(oldest[index].1);
        }
        Self { newest, oldest }
    }

    /// The newest position that anybody had heard of before; -1 if none.
    pub(super) fn newest_before(&self, at: Instant) -> i64 {
        let count = self.newest.partition_point(|(heard_at, _)| *heard_at < at);
        self.newest[..count]
            .last()
            .map_or(-1, |(_, newest)| *newest)
    }

    /// The oldest position of those that nobody had asked for yet; beyond all if there is none.
    fn oldest_after(&self, at: Instant) -> i64 {
        let count = self.oldest.partition_point(|(asked_at, _)| *asked_at <= at);
        self.oldest
            .get(count)
            .map_or(i64::MAX, |(_, oldest)| *oldest)
    }

    /// Answers whose record comes before one that somebody had heard of when they were asked for, or that share theirs.
    pub(super) fn out_of_order(&self, answers: &[Answer]) -> Vec<String> {
        let mut lies = Vec::new();
        let mut owners: HashMap<i64, &Answer> = HashMap::new();
        for answer in answers {
            let Some(position) = answer.position else {
                continue;
            };
            let newest = self.newest_before(answer.asked_at);
            if position <= newest {
                lies.push(format!("{}: {newest} was known before", answer.brief()));
            }
            if let Some(other) = owners.insert(position, answer) {
                lies.push(format!("{}: so did {}", answer.brief(), other.brief()));
            }
        }
        lies
    }
}

/// A refusal without the log, until a state is found that justifies it.
struct Waiting<'a> {
    answer: &'a Answer,
    user_id: i64,
    item_id: i64,
    /// The states in question are those after the first and before the second of these records.
    after: i64,
    before: i64,
}

impl History {
    /// Refusals without the log that no state justifies which the log had while the caller waited: at the earliest the
    /// one after the newest record that anybody had heard of before, at the latest the one before the oldest that
    /// nobody had asked for yet.
    pub(super) fn unjustified(&self, answers: &[Answer], heard: &Heard) -> Vec<String> {
        let local = answers
            .iter()
            .filter(|answer| answer.claim() == Claim::Local);
        let (mut waiting, mut lies) = (Vec::new(), Vec::new());
        for answer in local {
            match answer.request {
                Request::Checkout {
                    user_id,
                    item_id,
                    key: None,
                } => waiting.push(Waiting {
                    answer,
                    user_id,
                    item_id,
                    after: heard.newest_before(answer.asked_at),
                    before: heard.oldest_after(answer.answered_at),
                }),
                _ => lies.push(format!("{}: only the log may say so", answer.brief())),
            }
        }
        let unjustified = self.justify(waiting);
        lies.extend(
            unjustified
                .map(|answer| format!("{}: nothing on the log justifies it", answer.brief())),
        );
        lies
    }

    fn justify<'a>(&self, mut waiting: Vec<Waiting<'a>>) -> impl Iterator<Item = &'a Answer> {
        waiting.sort_by_key(|waiting| waiting.after);
        let mut waiting = waiting.into_iter().peekable();
        let (mut open, mut over): (Vec<Waiting<'_>>, Vec<Waiting<'_>>) = (Vec::new(), Vec::new());
        let mut fold = Fold::new(&self.rules);
        for record in &self.records {
            // The fold stands before this record.
            while let Some(next) = waiting.next_if(|next| next.after < record.offset) {
                open.push(next);
            }
            open.retain(|one| !fold.refuses(one.user_id, one.item_id));
            over.extend(open.extract_if(.., |one| one.before <= record.offset));
            fold.judge(record);
        }
        open.extend(waiting);
        open.retain(|one| !fold.refuses(one.user_id, one.item_id));
        over.into_iter().chain(open).map(|one| one.answer)
    }
}
