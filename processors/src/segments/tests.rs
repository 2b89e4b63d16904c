mod model;

use schemas::segments::{DAY_MS, SegmentCreateRequested, SegmentDeleteRequested};

use super::*;

const BEGAN_AT: i64 = 1_795_251_600_000;

/// The tables, without Postgres.
#[derive(Debug, Clone, Default, PartialEq)]
struct Tables {
    segments: BTreeMap<i64, Segment>,
    memberships: BTreeMap<(i64, i64, i64), Membership>,
    decided: BTreeMap<String, Decided>,
    last_ms: Option<i64>,
}

impl Tables {
    /// Folds a batch and writes what changes.
    fn apply(&mut self, records: &[Record<SegmentEvent>]) {
        let changes = Segments::fold(&self.prior(records), records, &[]).changes;
        let Some(last_ms) = changes.last_ms else {
            assert_eq!(changes, Changes::default());
            return;
        };
        let lives = changes.segments.into_iter().map(|row| (row.life, row));
        self.segments.extend(lives);
        for row in changes.memberships {
            let place = (row.user_id, row.life, row.added.offset);
            self.memberships.insert(place, row);
        }
        self.decided.extend(changes.decided);
        self.decided
            .retain(|_, decided| decided.moment.at_ms > last_ms - KEY_MS);
        self.last_ms = Some(last_ms);
    }

    /// What the queries of [`Fold::load`] give.
    fn prior(&self, records: &[Record<SegmentEvent>]) -> Prior {
        let named = |slug: &str| records.iter().any(|r| r.event.slugs().any(|s| s == slug));
        let living = self.segments.values().filter(|row| row.deleted.is_none());
        let segments: HashMap<_, _> = living
            .filter(|row| named(&row.slug))
            .map(|row| (row.slug.clone(), row.clone()))
            .collect();
        let is_touched = |row: &&Membership| {
            row.ended.is_none()
                && segments.values().any(|segment| segment.life == row.life)
                && records.iter().any(|r| user(&r.event) == Some(row.user_id))
        };
        let memberships = self.memberships.values().filter(is_touched);
        let memberships = memberships.map(|row| ((row.user_id, row.life), *row));
        let has_key = |key: &String| records.iter().any(|r| r.event.idempotency_key() == key);
        let decided = self.decided.iter().filter(|(key, _)| has_key(key));
        Prior {
            last_ms: self.last_ms,
            memberships: memberships.collect(),
            segments,
            decided: decided.map(|(k, d)| (k.clone(), d.clone())).collect(),
        }
    }

    fn verdict(&self, key: &str) -> Option<&Verdict> {
        self.decided.get(key).map(|decided| &decided.verdict)
    }

    /// Who is in which segment at a time, by user and slug.
    fn stays(&self, at_ms: i64) -> Vec<(i64, &str)> {
        let rows = self.memberships.values();
        let on = rows.filter(|row| row.ended.is_none() && is_on(row, at_ms));
        let named = on.map(|row| (row.user_id, &self.segments[&row.life]));
        let living = named.filter(|(_, segment)| segment.deleted.is_none());
        let mut stays: Vec<_> = living
            .map(|(user, segment)| (user, segment.slug.as_str()))
            .collect();
        stays.sort_unstable();
        stays
    }

    /// How the rows of a user ended, in their order.
    fn endings(&self, user_id: i64) -> Vec<Option<Ending>> {
        let rows = self.memberships.values();
        let rows = rows.filter(|row| row.user_id == user_id);
        rows.map(|row| row.ended.map(|(_, how)| how)).collect()
    }
}

/// A log that is folded record by record as it is written.
#[derive(Default)]
struct Story {
    tables: Tables,
    next_offset: i64,
}

impl Story {
    /// Appends a request so many milliseconds after the beginning, and gives its verdict.
    fn at(&mut self, after_ms: i64, event: SegmentEvent) -> Option<Verdict> {
        let key = event.idempotency_key().to_owned();
        let record = record(self.next_offset, BEGAN_AT + after_ms, event);
        self.next_offset += 1;
        self.tables.apply(&[record]);
        self.tables.verdict(&key).cloned()
    }

    fn stays(&self, after_ms: i64) -> Vec<(i64, &str)> {
        self.tables.stays(BEGAN_AT + after_ms)
    }
}

fn given(slugs: &[&str]) -> Story {
    let mut story = Story::default();
    for slug in slugs {
        story.at(
            0,
            create(slug, &format!("given {slug}").replace(' ', "-"), 0),
        );
    }
    story
}

fn record(offset: i64, timestamp_ms: i64, event: SegmentEvent) -> Record<SegmentEvent> {
    Record {
        partition: 0,
        offset,
        timestamp_ms,
        event,
    }
}

fn create(slug: &str, key: &str, after_ms: i64) -> SegmentEvent {
    SegmentEvent::SegmentCreateRequested(SegmentCreateRequested {
        slug: slug.to_owned(),
        requested_at: BEGAN_AT + after_ms,
        key: key.to_owned(),
    })
}

fn delete(slug: &str, key: &str, after_ms: i64) -> SegmentEvent {
    SegmentEvent::SegmentDeleteRequested(SegmentDeleteRequested {
        slug: slug.to_owned(),
        requested_at: BEGAN_AT + after_ms,
        key: key.to_owned(),
    })
}

fn change(
    user_id: i64,
    (add, del): (&[&str], &[&str]),
    ttl_ms: Option<i64>,
    key: &str,
    after_ms: i64,
) -> SegmentEvent {
    SegmentEvent::MembershipChangeRequested(MembershipChangeRequested {
        user_id,
        add: slugs(add),
        del: slugs(del),
        ttl_ms,
        requested_at: BEGAN_AT + after_ms,
        key: key.to_owned(),
    })
}

fn slugs(slugs: &[&str]) -> Vec<String> {
    slugs.iter().map(|&slug| slug.to_owned()).collect()
}

fn changed(added: &[&str], removed: &[&str]) -> Option<Verdict> {
    Some(Verdict::Changed {
        added: slugs(added),
        removed: slugs(removed),
    })
}

#[test]
fn a_segment_is_created_once_and_deleted_once() {
    let mut story = given(&[]);
    assert_eq!(story.at(1, create("A", "k1", 1)), Some(Verdict::Created));
    assert_eq!(story.at(2, create("A", "k2", 2)), Some(Verdict::Exists));
    assert_eq!(story.at(3, delete("A", "k3", 3)), Some(Verdict::Deleted));
    let unknown = Some(Verdict::Unknown(slugs(&["A"])));
    assert_eq!(story.at(4, delete("A", "k4", 4)), unknown);
}

#[test]
fn a_later_segment_of_the_same_name_starts_empty() {
    let mut story = given(&["A"]);
    story.at(1, change(7, (&["A"], &[]), None, "k1", 1));
    assert_eq!(story.stays(1), [(7, "A")]);
    story.at(2, delete("A", "k2", 2));
    story.at(3, create("A", "k3", 3));
    assert_eq!(story.stays(3), []);
    let back = story.at(4, change(7, (&["A"], &[]), None, "k4", 4));
    assert_eq!(back, changed(&["A"], &[]));
    // Deleting touched no membership.
    assert_eq!(story.tables.endings(7), [None, None]);
}

#[test]
fn the_answer_names_what_really_changed() {
    let mut story = given(&["A", "B", "C"]);
    story.at(1, change(7, (&["B", "A"], &[]), None, "k1", 1));
    let verdict = story.at(2, change(7, (&["C", "B"], &["A"]), None, "k2", 2));
    assert_eq!(verdict, changed(&["C"], &["A"]));
    let verdict = story.at(3, change(7, (&["B"], &["A"]), None, "k3", 3));
    assert_eq!(verdict, changed(&[], &[]));
    assert_eq!(story.stays(3), [(7, "B"), (7, "C")]);
}

#[test]
fn one_unknown_segment_leaves_everything_as_it_was() {
    let mut story = given(&["A"]);
    let verdict = story.at(1, change(7, (&["A", "Z"], &["Y"]), None, "k1", 1));
    assert_eq!(verdict, Some(Verdict::Unknown(slugs(&["Y", "Z"]))));
    assert_eq!(story.stays(1), []);
}

#[test]
fn a_membership_is_over_at_its_very_end() {
    let mut story = given(&["A"]);
    story.at(0, change(7, (&["A"], &[]), Some(5_000), "k1", 0));
    assert_eq!(story.stays(4_999), [(7, "A")]);
    assert_eq!(story.stays(5_000), []);
    let late = story.at(5_000, change(7, (&[], &["A"]), None, "k2", 5_000));
    assert_eq!(late, changed(&[], &[]));
    let again = story.at(5_001, change(7, (&["A"], &[]), None, "k3", 5_001));
    assert_eq!(again, changed(&["A"], &[]));
    assert_eq!(story.tables.endings(7), [Some(Ending::Expired), None]);
}

#[test]
fn adding_again_renews_and_is_no_change() {
    let mut story = given(&["A"]);
    story.at(0, change(7, (&["A"], &[]), Some(5_000), "k1", 0));
    let renewed = story.at(4_999, change(7, (&["A"], &[]), Some(5_000), "k2", 4_999));
    assert_eq!(renewed, changed(&[], &[]));
    assert_eq!(story.stays(9_998), [(7, "A")]);
    assert_eq!(story.stays(9_999), []);
    let for_ever = story.at(9_000, change(7, (&["A"], &[]), None, "k3", 9_000));
    assert_eq!(for_ever, changed(&[], &[]));
    assert_eq!(story.stays(i64::MAX / 2), [(7, "A")]);
    let renewed = Some(Ending::Renewed);
    assert_eq!(story.tables.endings(7), [renewed, renewed, None]);
}

#[test]
fn a_key_belongs_to_its_first_request_for_a_day_of_log_time() {
    let mut story = given(&[]);
    assert_eq!(story.at(0, create("A", "k", 0)), Some(Verdict::Created));
    let last_ms = KEY_MS - 1;
    // Another request, another caller: whoever reads the verdict sees that it is not theirs.
    let other = story.at(last_ms, delete("A", "k", last_ms));
    assert_eq!(other, Some(Verdict::Created));
    assert!(story.tables.segments[&0].deleted.is_none());
    let later = story.at(KEY_MS, delete("A", "k", KEY_MS));
    assert_eq!(later, Some(Verdict::Deleted));
}

#[test]
fn verdicts_of_yesterday_are_forgotten_with_the_first_request_that_counts() {
    let mut story = given(&[]);
    story.at(0, create("A", "k1", 0));
    story.at(KEY_MS + 60_000, create("B", "k2", 0));
    assert!(
        story.tables.verdict("k1").is_some(),
        "a void request moved time"
    );
    story.at(KEY_MS, create("C", "k3", KEY_MS));
    assert_eq!(story.tables.verdict("k1"), None);
}

#[test]
fn a_request_that_reaches_the_log_late_is_as_if_it_had_not_come() {
    let mut story = given(&[]);
    for (after_ms, counts) in [(30_001, false), (-30_001, false), (30_000, true)] {
        let verdict = story.at(after_ms, create("A", "k", 0));
        assert_eq!(verdict.is_some(), counts, "{after_ms}");
    }
    assert_eq!(story.tables.last_ms, Some(BEGAN_AT + 30_000));
}

#[test]
fn time_never_goes_back() {
    let mut story = given(&["A"]);
    story.at(10_000, change(7, (&["A"], &[]), Some(1_000), "k1", 10_000));
    // The broker's clock was set back: the membership lasts from the time of the log on.
    story.at(2_000, change(8, (&["A"], &[]), Some(1_000), "k2", 2_000));
    assert_eq!(story.stays(10_999), [(7, "A"), (8, "A")]);
    assert_eq!(story.stays(11_000), []);
}

#[test]
fn lists_in_another_order_ask_for_the_same() {
    let one = change(7, (&["A", "B"], &["C", "D"]), Some(1), "k1", 0);
    let same = change(7, (&["B", "A"], &["D", "C"]), Some(1), "k2", 9);
    assert_eq!(digest(&one), digest(&same));
    for other in [
        change(8, (&["A", "B"], &["C", "D"]), Some(1), "k1", 0),
        change(7, (&["A"], &["C", "D"]), Some(1), "k1", 0),
        change(7, (&["A", "B"], &["C", "D"]), None, "k1", 0),
        change(7, (&["A", "B", "C"], &["D"]), Some(1), "k1", 0),
        create("A", "k1", 0),
        delete("A", "k1", 0),
    ] {
        assert_ne!(digest(&one), digest(&other), "{other:?}");
    }
    assert_ne!(digest(&create("A", "k", 0)), digest(&delete("A", "k", 0)));
}

#[test]
fn a_membership_ends_while_there_are_names_for_times() {
    let mut story = given(&["A"]);
    let after_ms = TIME_MS_MAX - BEGAN_AT - 1;
    let change = change(7, (&["A"], &[]), Some(DAY_MS), "k", after_ms);
    story.at(after_ms, change);
    let ends: Vec<_> = story.tables.memberships.values().collect();
    assert_eq!(ends[0].expires_at_ms, Some(TIME_MS_MAX));
}
