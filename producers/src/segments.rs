//! Requests to the segments, stamped in one place for the API and the command line alike. Before this:
//! `schemas/src/segments.rs`; next: `processors/src/segments.rs`.

use schemas::segments::{
    MembershipChangeRequested, SegmentCreateRequested, SegmentDeleteRequested, SegmentEvent,
};

use crate::clock;

/// When a request is made, and by which key it is known when it comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub requested_at: i64,
    /// Idempotency key.
    pub key: String,
}

impl Stamp {
    /// Now, by the clock of this machine.
    pub fn now(key: String) -> Self {
        Self {
            requested_at: clock::now_ms(),
            key,
        }
    }

    /// A new segment.
    pub fn create(self, slug: String) -> SegmentEvent {
        SegmentEvent::SegmentCreateRequested(SegmentCreateRequested {
            slug,
            requested_at: self.requested_at,
            key: self.key,
        })
    }

    /// The end of a segment.
    pub fn delete(self, slug: String) -> SegmentEvent {
        SegmentEvent::SegmentDeleteRequested(SegmentDeleteRequested {
            slug,
            requested_at: self.requested_at,
            key: self.key,
        })
    }

    /// Other segments for a user; those of `add` for so many milliseconds.
    pub fn change(
        self,
        user_id: i64,
        add: Vec<String>,
        del: Vec<String>,
        ttl_ms: Option<i64>,
    ) -> SegmentEvent {
        SegmentEvent::MembershipChangeRequested(MembershipChangeRequested {
            user_id,
            add,
            del,
            ttl_ms,
            requested_at: self.requested_at,
            key: self.key,
        })
    }
}

#[cfg(test)]
mod tests {
    use schemas::event::Event;

    use super::*;

    #[test]
    fn requests_are_valid_and_carry_their_stamp() {
        let stamp = Stamp::now("k-1".to_owned());
        for event in [
            stamp.clone().create("A".to_owned()),
            stamp.clone().delete("A".to_owned()),
            stamp
                .clone()
                .change(7, vec!["A".to_owned()], Vec::new(), Some(1)),
        ] {
            assert_eq!(event.faults(), []);
            assert_eq!(event.requested_at(), stamp.requested_at);
            assert_eq!(event.idempotency_key(), stamp.key);
        }
    }
}
