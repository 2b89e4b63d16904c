//! The rules of the segments once more, as a reader of the contract would work them out on paper: every request that
//! ever came stays on the table, and each question is answered by looking through all of them.

use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
};

use super::*;

const DAY: i64 = 86_400_000;
const NAMES: [&str; 3] = ["A", "B", "C"];

/// Every record so far, with when it was decided and what was said; nothing to those that were void or came again.
#[derive(Default)]
struct Model(Vec<(Record<SegmentEvent>, Option<Said>)>);

/// When it was decided, and what was said.
type Said = (i64, Verdict);

impl Model {
    fn judge(&mut self, record: &Record<SegmentEvent>) {
        let answer = self.answer(record);
        self.0.push((record.clone(), answer));
    }

    fn counts(record: &Record<SegmentEvent>) -> bool {
        (record.timestamp_ms - record.event.requested_at()).abs() <= 30_000
    }

    fn now(&self) -> i64 {
        let counted = self.0.iter().filter(|(record, _)| Self::counts(record));
        counted.map(|(r, _)| r.timestamp_ms).max().unwrap_or(0)
    }

    fn answer(&self, record: &Record<SegmentEvent>) -> Option<Said> {
        if !Self::counts(record) {
            return None;
        }
        let now = self.now().max(record.timestamp_ms);
        if self.known(record.event.idempotency_key(), now).is_some() {
            return None;
        }
        let verdict = match &record.event {
            SegmentEvent::SegmentCreateRequested(request) => match self.life(&request.slug) {
                Some(_) => Verdict::Exists,
                None => Verdict::Created,
            },
            SegmentEvent::SegmentDeleteRequested(request) => match self.life(&request.slug) {
                Some(_) => Verdict::Deleted,
                None => Verdict::Unknown(vec![request.slug.clone()]),
            },
            SegmentEvent::MembershipChangeRequested(change) => self.changed(change, now),
        };
        Some((now, verdict))
    }

    fn changed(&self, change: &MembershipChangeRequested, now: i64) -> Verdict {
        let sorted = |list: &[String], which: &dyn Fn(&String) -> bool| {
            let mut list: Vec<_> = list.iter().filter(|slug| which(slug)).cloned().collect();
            list.sort();
            list
        };
        let all: Vec<_> = [&change.add[..], &change.del].concat();
        let unknown = sorted(&all, &|slug| self.life(slug).is_none());
        if !unknown.is_empty() {
            return Verdict::Unknown(unknown);
        }
        let is_in = |slug: &String| self.is_in(change.user_id, slug, now);
        Verdict::Changed {
            added: sorted(&change.add, &|slug| !is_in(slug)),
            removed: sorted(&change.del, &is_in),
        }
    }

    /// The newest verdict on a key, if a day has not passed since.
    fn known(&self, key: &str, now: i64) -> Option<&Verdict> {
        let with_key =
            |(record, _): &&(Record<SegmentEvent>, _)| record.event.idempotency_key() == key;
        let with_key = self.0.iter().rev().filter(with_key);
        let (at, verdict) = with_key.filter_map(|(_, said)| said.as_ref()).next()?;
        (now - at < DAY).then_some(verdict)
    }

    /// Which record created the segment that has this name now.
    fn life(&self, slug: &str) -> Option<usize> {
        let mut life = None;
        for (index, (record, said)) in self.0.iter().enumerate() {
            let Some((_, verdict)) = said else {
                continue;
            };
            match (&record.event, verdict) {
                (SegmentEvent::SegmentCreateRequested(r), Verdict::Created) if r.slug == slug => {
                    life = Some(index);
                }
                (SegmentEvent::SegmentDeleteRequested(r), Verdict::Deleted) if r.slug == slug => {
                    life = None;
                }
                _ => {}
            }
        }
        life
    }

    fn is_in(&self, user_id: i64, slug: &String, now: i64) -> bool {
        let Some(life) = self.life(slug) else {
            return false;
        };
        let mut ends_at = None;
        for (record, said) in &self.0[life..] {
            let SegmentEvent::MembershipChangeRequested(change) = &record.event else {
                continue;
            };
            let Some((at, Verdict::Changed { .. })) = said else {
                continue;
            };
            if change.user_id != user_id {
                continue;
            }
            if change.add.contains(slug) {
                ends_at = Some(change.ttl_ms.map_or(i64::MAX, |ttl| at + ttl));
            }
            if change.del.contains(slug) {
                ends_at = None;
            }
        }
        ends_at.is_some_and(|ends_at| now < ends_at)
    }

    fn stays(&self, now: i64) -> Vec<(i64, &str)> {
        let all = (0..3).flat_map(|user| NAMES.map(|slug| (user, slug)));
        all.filter(|(user, slug)| self.is_in(*user, &(*slug).to_owned(), now))
            .collect()
    }
}

/// A log on which everything collides: few names, users and keys, clocks that jump, appenders that are late.
fn logs() -> impl Strategy<Value = Vec<Record<SegmentEvent>>> {
    let by = prop_oneof![
        8 => 0..3_000_i64,
        1 => select(vec![-5_000, -DAY, DAY - 1, DAY, DAY + 1, 3_600_000]),
    ];
    let drift = prop_oneof![
        12 => Just(0),
        1 => select(vec![30_000, -30_000]),
        1 => select(vec![30_001, -30_001, DAY]),
    ];
    vec((asked(), by, drift, 0..12_u8), 1..80).prop_map(|steps| {
        let mut now = BEGAN_AT;
        let of_step = |(offset, (mut event, by, drift, key))| {
            now += by;
            stamp(&mut event, now + drift, key);
            record(offset, now, event)
        };
        (0..).zip(steps).map(of_step).collect()
    })
}

fn asked() -> impl Strategy<Value = SegmentEvent> {
    let names = || subsequence(&NAMES[..], 1..=3);
    prop_oneof![
        3 => select(&NAMES[..]).prop_map(|slug| create(slug, "", 0)),
        1 => select(&NAMES[..]).prop_map(|slug| delete(slug, "", 0)),
        8 => (0..3_i64, names(), 0..=3_usize, ttl()).prop_map(|(user, names, cut, ttl_ms)| {
            let lists = names.split_at(cut.min(names.len()));
            change(user, lists, ttl_ms, "", 0)
        }),
    ]
}

fn ttl() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![Just(None), (1..4_000_i64).prop_map(Some), Just(Some(DAY))]
}

/// Few keys come again; the others are of their time.
fn stamp(event: &mut SegmentEvent, at: i64, number: u8) {
    let new_key = match number {
        0..4 => format!("k{number}"),
        _ => format!("k{number}-{at}"),
    };
    let (requested_at, key) = match event {
        SegmentEvent::SegmentCreateRequested(r) => (&mut r.requested_at, &mut r.key),
        SegmentEvent::SegmentDeleteRequested(r) => (&mut r.requested_at, &mut r.key),
        SegmentEvent::MembershipChangeRequested(r) => (&mut r.requested_at, &mut r.key),
    };
    (*requested_at, *key) = (at, new_key);
}

proptest! {
    #[test]
    fn every_log_is_decided_as_on_paper(log in logs()) {
        let (mut tables, mut model) = (Tables::default(), Model::default());
        for record in &log {
            tables.apply(std::slice::from_ref(record));
            model.judge(record);
            let now = model.now();
            let key = record.event.idempotency_key();
            prop_assert_eq!(tables.verdict(key), model.known(key, now), "{}", record.offset);
            prop_assert_eq!(tables.stays(now), model.stays(now), "{}", record.offset);
        }
    }

    #[test]
    fn any_cut_into_batches_gives_the_same_tables(
        log in logs(),
        cuts in vec(0..80_usize, 0..10),
    ) {
        let mut one_by_one = Tables::default();
        for record in &log {
            one_by_one.apply(std::slice::from_ref(record));
        }
        let mut ends: Vec<_> = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
        ends.push(log.len());
        ends.sort_unstable();
        let (mut in_batches, mut start) = (Tables::default(), 0);
        for end in ends {
            in_batches.apply(&log[start..end]);
            start = end;
        }
        prop_assert_eq!(in_batches, one_by_one);
    }
}
