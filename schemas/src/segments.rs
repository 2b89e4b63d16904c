//! Segments of users: the events of the topic `segments`. Next in the story: `producers/src/segments.rs`.

use std::{collections::HashSet, sync::LazyLock};

use apache_avro::Schema;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Fault},
    sales::{KEY_CHARS_MAX, is_key, time_fault, user_fault},
    topics::{Compatibility, Topic},
};

/// The topic: one partition, since its order decides; stamped by the broker, since its time decides too.
pub static TOPIC: Topic = Topic {
    name: "segments",
    partitions: 1,
    keyed: false,
    log_append_time: true,
    compatibility: Compatibility::BackwardTransitive,
    avsc: AVSC,
    schema: || &SCHEMA,
};

const AVSC: &str = include_str!("../avro/segments.avsc");
static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::parse_str(AVSC).expect("segments.avsc is read by a test"));

/// The longest slug, in characters.
pub const SLUG_CHARS_MAX: usize = 100;
/// The most segments that one request names.
pub const SLUGS_MAX: usize = 1_000;
/// The longest membership with an end, in milliseconds: a hundred years, so that its end has a name in RFC 3339.
pub const TTL_MS_MAX: i64 = 36_500 * DAY_MS;
/// A day, in milliseconds.
pub const DAY_MS: i64 = 86_400_000;

/// What stands on the log of the segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SegmentEvent {
    /// Somebody wants a new segment.
    SegmentCreateRequested(SegmentCreateRequested),
    /// Somebody wants a segment to end.
    SegmentDeleteRequested(SegmentDeleteRequested),
    /// Somebody wants a user to be in other segments.
    MembershipChangeRequested(MembershipChangeRequested),
}

/// Somebody wants a new segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.segments"))]
pub struct SegmentCreateRequested {
    /// Its name.
    pub slug: String,
    /// By the appender's clock, milliseconds since 1970-01-01T00:00:00Z.
    #[cfg_attr(test, avro(with = || Schema::TimestampMillis))]
    pub requested_at: i64,
    /// Idempotency key.
    pub key: String,
}

/// Somebody wants a segment to end, and all memberships with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.segments"))]
pub struct SegmentDeleteRequested {
    /// Its name.
    pub slug: String,
    /// By the appender's clock, milliseconds since 1970-01-01T00:00:00Z.
    #[cfg_attr(test, avro(with = || Schema::TimestampMillis))]
    pub requested_at: i64,
    /// Idempotency key.
    pub key: String,
}

/// Somebody wants a user to be in some segments, and not to be in others: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.segments"))]
pub struct MembershipChangeRequested {
    /// The user, at least 0.
    pub user_id: i64,
    /// Slugs of the segments to be in; none twice.
    pub add: Vec<String>,
    /// Slugs of the segments not to be in; none twice, and none of `add`.
    pub del: Vec<String>,
    /// For how long the user is in the segments of `add`; without it, until removed.
    pub ttl_ms: Option<i64>,
    /// By the appender's clock, milliseconds since 1970-01-01T00:00:00Z.
    #[cfg_attr(test, avro(with = || Schema::TimestampMillis))]
    pub requested_at: i64,
    /// Idempotency key.
    pub key: String,
}

impl SegmentEvent {
    /// When it was requested, by the appender's clock; milliseconds since 1970-01-01T00:00:00Z.
    pub fn requested_at(&self) -> i64 {
        match self {
            Self::SegmentCreateRequested(request) => request.requested_at,
            Self::SegmentDeleteRequested(request) => request.requested_at,
            Self::MembershipChangeRequested(request) => request.requested_at,
        }
    }

    /// The idempotency key.
    pub fn idempotency_key(&self) -> &str {
        match self {
            Self::SegmentCreateRequested(request) => &request.key,
            Self::SegmentDeleteRequested(request) => &request.key,
            Self::MembershipChangeRequested(request) => &request.key,
        }
    }

    /// The slugs that it names.
    pub fn slugs(&self) -> impl Iterator<Item = &str> {
        let (one, add, del) = match self {
            Self::SegmentCreateRequested(request) => (Some(&request.slug), None, None),
            Self::SegmentDeleteRequested(request) => (Some(&request.slug), None, None),
            Self::MembershipChangeRequested(request) => {
                (None, Some(&request.add), Some(&request.del))
            }
        };
        let lists = add.into_iter().chain(del).flatten();
        one.into_iter().chain(lists).map(String::as_str)
    }
}

impl Event for SegmentEvent {
    const TOPIC: &'static Topic = &TOPIC;

    fn kind(&self) -> &'static str {
        match self {
            Self::SegmentCreateRequested(_) => "SegmentCreateRequested",
            Self::SegmentDeleteRequested(_) => "SegmentDeleteRequested",
            Self::MembershipChangeRequested(_) => "MembershipChangeRequested",
        }
    }

    fn key(&self) -> Option<&str> {
        None
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = match self {
            Self::SegmentCreateRequested(request) => slug_faults("slug", [&request.slug]),
            Self::SegmentDeleteRequested(request) => slug_faults("slug", [&request.slug]),
            Self::MembershipChangeRequested(request) => request.faults(),
        };
        faults.extend(time_fault("requested_at", self.requested_at()));
        if !is_key(self.idempotency_key()) {
            let message = format!("must be 1 to {KEY_CHARS_MAX} visible ASCII characters");
            faults.push(Fault::new("key", message));
        }
        faults
    }
}

impl MembershipChangeRequested {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        faults.extend(user_fault(self.user_id));
        let named = self.add.len() + self.del.len();
        if named == 0 {
            faults.push(Fault::new("", "add and del must not both be empty"));
        }
        if named > SLUGS_MAX {
            let message = format!("add and del must have at most {SLUGS_MAX} slugs together");
            faults.push(Fault::new("", message));
            return faults;
        }
        faults.extend(slug_faults("add", &self.add));
        faults.extend(slug_faults("del", &self.del));
        let mut seen = HashSet::new();
        for slug in self.add.iter().chain(&self.del) {
            if !seen.insert(slug) {
                faults.push(Fault::new("", format!("{slug} must be named once only")));
            }
        }
        if self
            .ttl_ms
            .is_some_and(|ttl| !(1..=TTL_MS_MAX).contains(&ttl))
        {
            let message = format!("must be 1 to {TTL_MS_MAX} milliseconds");
            faults.push(Fault::new("ttl_ms", message));
        }
        faults
    }
}

fn slug_faults<'s>(field: &str, slugs: impl IntoIterator<Item = &'s String>) -> Vec<Fault> {
    let is_wrong = |slug: &&String| !is_slug(slug);
    let message = format!("must be 1 to {SLUG_CHARS_MAX} letters, digits, _ and -");
    let wrong = slugs.into_iter().filter(is_wrong);
    wrong.map(|_| Fault::new(field, message.clone())).collect()
}

/// Milliseconds of so many days, at least one; none if that is no time, or too long.
pub fn ttl_ms(days: f64) -> Option<i64> {
    const TTL_DAYS_MAX: f64 = (TTL_MS_MAX / DAY_MS) as f64;
    if !(days > 0.0 && days <= TTL_DAYS_MAX) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most TTL_MS_MAX, which a float holds exactly"
    )]
    let ms = (days * DAY_MS as f64).ceil() as i64;
    Some(ms.clamp(1, TTL_MS_MAX))
}

/// Whether a text may be the name of a segment.
pub fn is_slug(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=SLUG_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use apache_avro::AvroSchema;

    use super::*;

    fn change(add: &[&str], del: &[&str]) -> MembershipChangeRequested {
        let list = |slugs: &[&str]| slugs.iter().map(|&slug| slug.to_owned()).collect();
        MembershipChangeRequested {
            user_id: 7,
            add: list(add),
            del: list(del),
            ttl_ms: None,
            requested_at: 1_795_251_600_000,
            key: "k".to_owned(),
        }
    }

    fn is_valid(change: MembershipChangeRequested) -> bool {
        SegmentEvent::MembershipChangeRequested(change)
            .faults()
            .is_empty()
    }

    #[test]
    fn the_structs_are_what_the_schema_says() {
        let Schema::Union(union) = &*SCHEMA else {
            panic!("{SCHEMA:?}");
        };
        let branches: Vec<_> = union
            .variants()
            .iter()
            .map(Schema::canonical_form)
            .collect();
        let structs = [
            SegmentCreateRequested::get_schema(),
            SegmentDeleteRequested::get_schema(),
            MembershipChangeRequested::get_schema(),
        ];
        assert_eq!(branches, structs.map(|schema| schema.canonical_form()));
    }

    #[test]
    fn a_change_names_each_segment_once_and_one_at_least() {
        assert!(is_valid(change(&["A"], &["B"])));
        assert!(is_valid(change(&[], &["B"])));
        for (add, del) in [
            (&[][..], &[][..]),
            (&["A"], &["A"]),
            (&["A", "A"], &[]),
            (&["ä"], &[]),
            (&[""], &[]),
        ] {
            assert!(!is_valid(change(add, del)), "{add:?} {del:?}");
        }
        let many: Vec<_> = (0..=SLUGS_MAX).map(|number| number.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(is_valid(change(&many[1..], &[])));
        assert!(!is_valid(change(&many, &[])));
    }

    #[test]
    fn a_membership_may_last_a_millisecond_to_a_hundred_years() {
        for (ttl_ms, may) in [
            (0, false),
            (1, true),
            (TTL_MS_MAX, true),
            (TTL_MS_MAX + 1, false),
        ] {
            let change = MembershipChangeRequested {
                ttl_ms: Some(ttl_ms),
                ..change(&["A"], &[])
            };
            assert_eq!(is_valid(change), may, "{ttl_ms}");
        }
    }

    #[test]
    fn days_are_many_milliseconds_and_a_part_of_a_day_is_some() {
        for (days, ms) in [
            (1.0, Some(DAY_MS)),
            (0.5, Some(DAY_MS / 2)),
            (1e-12, Some(1)),
            (36_500.0, Some(TTL_MS_MAX)),
            (36_500.1, None),
            (0.0, None),
            (-1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            assert_eq!(ttl_ms(days), ms, "{days}");
        }
    }

    #[test]
    fn a_slug_is_plain_and_short() {
        for slug in ["A", "-", "AVITO_VOICE_MESSAGES", &"x".repeat(100)] {
            assert!(is_slug(slug), "{slug}");
        }
        for slug in ["", " ", "a b", "a;b", "=1", "ü", &"x".repeat(101)] {
            assert!(!is_slug(slug), "{slug}");
        }
    }
}
