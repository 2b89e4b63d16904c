//! The fold of the segments, which decides what is asked: a request gets what the log has in it so far, in its order,
//! the same however often it is folded. Before this: `schemas/src/segments.rs`; next: `projections/src/segments.rs`.
//!
//! Time is that of the log, as in [`crate::sales`]: a request counts only if its record was stamped within
//! [`DRIFT_MAX_MS`] of the time that its appender gave it; no other moves time. An idempotency key belongs to the first
//! request that comes with it, for 24 hours of that time. The end of a membership is a comparison of times, not a record.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use projections::{
    projection::Projection,
    segments::{
        self, Changes, Decided, Digest, Ending, KEY_MS, Membership, Moment, PROJECTION, Prior,
        Segment, Verdict,
    },
};
use schemas::segments::{MembershipChangeRequested, SegmentEvent};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use crate::{
    fold::{Fold, Folded},
    record::{Record, TIME_MS_MAX},
    sales::DRIFT_MAX_MS,
};

/// The fold.
pub struct Segments;

impl Fold for Segments {
    type Event = SegmentEvent;
    type Memory = ();
    type Prior = Prior;
    type Changes<'a> = Changes;

    const BATCH_MAX: usize = 2_000;
    /// Somebody waits for what is decided.
    const BATCH_AGE: Duration = Duration::ZERO;
    const PROJECTION: &'static Projection = &PROJECTION;

    async fn load(
        transaction: &mut PgConnection,
        records: &[Record<SegmentEvent>],
    ) -> sqlx::Result<Prior> {
        let events = || records.iter().map(|record| &record.event);
        let users: BTreeSet<i64> = events().filter_map(user).collect();
        let slugs: BTreeSet<&str> = events().flat_map(SegmentEvent::slugs).collect();
        let keys: BTreeSet<&str> = events().map(SegmentEvent::idempotency_key).collect();
        let users: Vec<_> = users.into_iter().collect();
        let slugs: Vec<_> = slugs.into_iter().collect();
        let keys: Vec<_> = keys.into_iter().collect();
        segments::load(transaction, &users, &slugs, &keys).await
    }

    fn fold(prior: &Prior, records: &[Record<SegmentEvent>], _: &[()]) -> Folded<Changes> {
        let mut state = State::after(prior);
        for record in records {
            state.pass(record);
        }
        Folded {
            changes: state.changes(),
            dead_letters: Vec::new(),
        }
    }
}

fn user(event: &SegmentEvent) -> Option<i64> {
    match event {
        SegmentEvent::MembershipChangeRequested(change) => Some(change.user_id),
        SegmentEvent::SegmentCreateRequested(_) | SegmentEvent::SegmentDeleteRequested(_) => None,
    }
}

/// Whether a request counts whose record was stamped then: its times are close enough.
pub fn counts(event: &SegmentEvent, appended_at_ms: i64) -> bool {
    appended_at_ms.abs_diff(event.requested_at()) <= DRIFT_MAX_MS
}

/// SHA-256 of what a request asks for, whoever asks and whenever: lists in another order ask for the same.
pub fn digest(event: &SegmentEvent) -> Digest {
    let mut hash = Sha256::new();
    let sorted = |slugs: &[String]| {
        let mut slugs: Vec<_> = slugs.iter().map(String::as_str).collect();
        slugs.sort_unstable();
        slugs.join(",")
    };
    hash.update(match event {
        SegmentEvent::SegmentCreateRequested(request) => format!("create {}", request.slug),
        SegmentEvent::SegmentDeleteRequested(request) => format!("delete {}", request.slug),
        SegmentEvent::MembershipChangeRequested(change) => format!(
            "change {} +{} -{} {:?}",
            change.user_id,
            sorted(&change.add),
            sorted(&change.del),
            change.ttl_ms
        ),
    });
    hash.finalize().into()
}

/// What is known within a batch: what the records touch, and what they have changed.
struct State {
    last_ms: Option<i64>,
    /// Living segments, by slug.
    segments: HashMap<String, Segment>,
    /// Memberships that no record has ended, by user and life.
    memberships: HashMap<(i64, i64), Membership>,
    decided: HashMap<String, Decided>,
    /// Whether a request counted.
    has_counted: bool,
    changed_segments: BTreeMap<i64, Segment>,
    changed_memberships: BTreeMap<(i64, i64, i64), Membership>,
    changed_decided: BTreeMap<String, Decided>,
}

impl State {
    fn after(prior: &Prior) -> Self {
        Self {
            last_ms: prior.last_ms,
            segments: prior.segments.clone(),
            memberships: prior.memberships.clone(),
            decided: prior.decided.clone(),
            has_counted: false,
            changed_segments: BTreeMap::new(),
            changed_memberships: BTreeMap::new(),
            changed_decided: BTreeMap::new(),
        }
    }

    fn changes(self) -> Changes {
        Changes {
            segments: self.changed_segments.into_values().collect(),
            memberships: self.changed_memberships.into_values().collect(),
            decided: self.changed_decided.into_iter().collect(),
            last_ms: self.last_ms.filter(|_| self.has_counted),
        }
    }

    fn pass(&mut self, record: &Record<SegmentEvent>) {
        let event = &record.event;
        if !counts(event, record.timestamp_ms) {
            return;
        }
        let moment = Moment {
            offset: record.offset,
            at_ms: record.timestamp_ms.max(self.last_ms.unwrap_or(0)),
        };
        (self.last_ms, self.has_counted) = (Some(moment.at_ms), true);
        let key = event.idempotency_key();
        let known = self.decided.get(key);
        if known.is_some_and(|known| moment.at_ms < known.moment.at_ms + KEY_MS) {
            return;
        }
        let verdict = match event {
            SegmentEvent::SegmentCreateRequested(request) => self.create(&request.slug, moment),
            SegmentEvent::SegmentDeleteRequested(request) => self.delete(&request.slug, moment),
            SegmentEvent::MembershipChangeRequested(change) => self.change(change, moment),
        };
        let decided = Decided {
            moment,
            digest: digest(event),
            verdict,
        };
        self.decided.insert(key.to_owned(), decided.clone());
        self.changed_decided.insert(key.to_owned(), decided);
    }

    fn create(&mut self, slug: &str, moment: Moment) -> Verdict {
        if self.segments.contains_key(slug) {
            return Verdict::Exists;
        }
        let segment = Segment {
            life: moment.offset,
            slug: slug.to_owned(),
            created_at_ms: moment.at_ms,
            deleted: None,
        };
        self.changed_segments.insert(segment.life, segment.clone());
        self.segments.insert(slug.to_owned(), segment);
        Verdict::Created
    }

    fn delete(&mut self, slug: &str, moment: Moment) -> Verdict {
        let Some(segment) = self.segments.remove(slug) else {
            return Verdict::Unknown(vec![slug.to_owned()]);
        };
        let deleted = Segment {
            deleted: Some(moment),
            ..segment
        };
        self.changed_segments.insert(deleted.life, deleted);
        Verdict::Deleted
    }

    fn change(&mut self, change: &MembershipChangeRequested, moment: Moment) -> Verdict {
        let add: BTreeSet<&String> = change.add.iter().collect();
        let del: BTreeSet<&String> = change.del.iter().collect();
        let is_unknown = |slug: &&&String| !self.segments.contains_key(**slug);
        let unknown: BTreeSet<String> = add
            .union(&del)
            .filter(is_unknown)
            .map(|slug| (*slug).clone())
            .collect();
        if !unknown.is_empty() {
            return Verdict::Unknown(unknown.into_iter().collect());
        }
        let expires_at_ms = change
            .ttl_ms
            .map(|ttl_ms| (moment.at_ms + ttl_ms).min(TIME_MS_MAX));
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for slug in add {
            if self.add(change.user_id, self.life(slug), expires_at_ms, moment) {
                added.push(slug.clone());
            }
        }
        for slug in del {
            if self.remove(change.user_id, self.life(slug), moment) {
                removed.push(slug.clone());
            }
        }
        Verdict::Changed { added, removed }
    }

    /// The life of a segment that is there.
    fn life(&self, slug: &str) -> i64 {
        self.segments[slug].life
    }

    /// Puts a user in, or renews; whether the user was not in.
    fn add(&mut self, user_id: i64, life: i64, expires_at_ms: Option<i64>, moment: Moment) -> bool {
        let known = self.memberships.get(&(user_id, life)).copied();
        let is_in = known.is_some_and(|known| is_on(&known, moment.at_ms));
        if let Some(known) = known {
            if is_in && known.expires_at_ms == expires_at_ms {
                return false;
            }
            let how = if is_in {
                Ending::Renewed
            } else {
                Ending::Expired
            };
            self.end(known, moment, how);
        }
        let membership = Membership {
            user_id,
            life,
            added: moment,
            is_renewal: is_in,
            expires_at_ms,
            ended: None,
        };
        self.memberships.insert((user_id, life), membership);
        self.note(membership);
        !is_in
    }

    /// Takes a user out; whether the user was in.
    fn remove(&mut self, user_id: i64, life: i64, moment: Moment) -> bool {
        let known = self.memberships.get(&(user_id, life)).copied();
        let Some(known) = known.filter(|known| is_on(known, moment.at_ms)) else {
            return false;
        };
        self.end(known, moment, Ending::Removed);
        true
    }

    fn end(&mut self, membership: Membership, moment: Moment, how: Ending) {
        self.memberships
            .remove(&(membership.user_id, membership.life));
        self.note(Membership {
            ended: Some((moment, how)),
            ..membership
        });
    }

    fn note(&mut self, row: Membership) {
        let place = (row.user_id, row.life, row.added.offset);
        self.changed_memberships.insert(place, row);
    }
}

/// Whether a membership that no record has ended is not over.
fn is_on(membership: &Membership, at_ms: i64) -> bool {
    membership
        .expires_at_ms
        .is_none_or(|expires_at_ms| at_ms < expires_at_ms)
}
