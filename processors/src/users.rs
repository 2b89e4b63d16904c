//! The fold of the users: what was said last of a user stands, that there is none, too. Before this:
//! `producers/src/users.rs`; next: `projections/src/users.rs`.

use std::collections::HashMap;

use projections::{
    projection::Projection,
    users::{PROJECTION, Said},
};
use schemas::users::UserEvent;
use sqlx::PgConnection;

use crate::{
    fold::{Fold, Folded},
    record::Record,
};

/// The fold.
pub struct Users;

impl Fold for Users {
    type Event = UserEvent;
    type Memory = ();
    type Prior = ();
    type Changes<'a> = Vec<Said<'a>>;

    const BATCH_MAX: usize = 10_000;
    const PROJECTION: &'static Projection = &PROJECTION;

    async fn load(_: &mut PgConnection, _: &[Record<UserEvent>]) -> sqlx::Result<()> {
        Ok(())
    }

    fn fold<'a>((): &(), records: &'a [Record<UserEvent>], _: &'a [()]) -> Folded<Vec<Said<'a>>> {
        let mut last: HashMap<&str, Said<'a>> = HashMap::with_capacity(records.len());
        for record in records {
            let said = said(record);
            let known = last.entry(said.user_id).or_insert(said);
            if known.offset < said.offset {
                *known = said;
            }
        }
        let mut changes: Vec<_> = last.into_values().collect();
        // Sorted by key, so that two writers lock rows in the same order.
        changes.sort_unstable_by_key(|said| said.user_id);
        Folded {
            changes,
            dead_letters: Vec::new(),
        }
    }
}

fn said(record: &Record<UserEvent>) -> Said<'_> {
    let profile = match &record.event {
        UserEvent::UserProfileSet(set) => Some((&*set.deeplink, &*set.promo_message)),
        UserEvent::UserRemoved(_) => None,
    };
    Said {
        user_id: record.event.user_id(),
        profile,
        partition: record.partition,
        offset: record.offset,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use schemas::users::{UserProfileSet, UserRemoved};

    use super::*;

    fn set(user_id: &str, promo_message: &str) -> UserEvent {
        UserEvent::UserProfileSet(UserProfileSet {
            user_id: user_id.to_owned(),
            deeplink: format!("app://{promo_message}"),
            promo_message: promo_message.to_owned(),
        })
    }

    fn removed(user_id: &str) -> UserEvent {
        UserEvent::UserRemoved(UserRemoved {
            user_id: user_id.to_owned(),
        })
    }

    fn at(offset: i64, event: UserEvent) -> Record<UserEvent> {
        Record {
            partition: 3,
            offset,
            timestamp_ms: 0,
            event,
        }
    }

    /// User, promo message and offset of each change.
    fn then(when: &[Record<UserEvent>]) -> Vec<(&str, Option<&str>, i64)> {
        let folded = Users::fold(&(), when, &[]);
        assert_eq!(folded.dead_letters, []);
        let changes = folded.changes.into_iter();
        changes
            .map(|said| {
                (
                    said.user_id,
                    said.profile.map(|(_, promo)| promo),
                    said.offset,
                )
            })
            .collect()
    }

    #[test]
    fn what_was_said_last_of_a_user_stands() {
        let when = [
            at(0, set("bob", "x")),
            at(1, set("ann", "x")),
            at(2, set("bob", "y")),
        ];
        assert_eq!(then(&when), [("ann", Some("x"), 1), ("bob", Some("y"), 2)]);
    }

    #[test]
    fn who_is_removed_is_gone_and_may_come_again() {
        let when = [at(0, set("ann", "x")), at(1, removed("ann"))];
        assert_eq!(then(&when), [("ann", None, 1)]);
        let when = [at(1, removed("ann")), at(2, set("ann", "z"))];
        assert_eq!(then(&when), [("ann", Some("z"), 2)]);
        assert_eq!(then(&[at(0, removed("nobody"))]), [("nobody", None, 0)]);
    }

    #[test]
    fn the_order_of_the_log_decides_not_that_of_the_batch() {
        let when = [at(7, set("ann", "late")), at(3, removed("ann"))];
        assert_eq!(then(&when), [("ann", Some("late"), 7)]);
    }

    #[test]
    fn a_row_names_its_record_and_has_both_texts() {
        let when = [at(9, set("ann", "x"))];
        let folded = Users::fold(&(), &when, &[]);
        let said = Said {
            user_id: "ann",
            profile: Some(("app://x", "x")),
            partition: 3,
            offset: 9,
        };
        assert_eq!(folded.changes, [said]);
    }

    /// Profiles and the offsets of their records; of users who were removed, too.
    type Rows = BTreeMap<String, (Option<String>, i64)>;

    /// Writes changes as the table does.
    fn apply_to(rows: &mut Rows, changes: &[Said<'_>]) {
        for said in changes {
            let profile = said
                .profile
                .map(|(deeplink, promo)| format!("{deeplink} {promo}"));
            let row = (profile, said.offset);
            let known = rows
                .entry(said.user_id.to_owned())
                .or_insert_with(|| row.clone());
            if known.1 < row.1 {
                *known = row;
            }
        }
    }

    /// The users that a naive reader of the log sees.
    fn naive(log: &[Record<UserEvent>]) -> BTreeMap<String, String> {
        let mut users = BTreeMap::new();
        for record in log {
            match &record.event {
                UserEvent::UserProfileSet(set) => {
                    let profile = format!("{} {}", set.deeplink, set.promo_message);
                    users.insert(set.user_id.clone(), profile);
                }
                UserEvent::UserRemoved(removed) => drop(users.remove(&removed.user_id)),
            }
        }
        users
    }

    fn any_event() -> impl Strategy<Value = UserEvent> {
        let id = || (0..5_u8).prop_map(|id| id.to_string());
        prop_oneof![
            3 => (id(), 0..4_u8).prop_map(|(id, promo)| set(&id, &promo.to_string())),
            1 => id().prop_map(|id| removed(&id)),
        ]
    }

    proptest! {
        #[test]
        fn any_cut_into_batches_gives_what_a_naive_reader_sees(
            events in prop::collection::vec(any_event(), 0..60),
            cuts in prop::collection::vec(0..60_usize, 0..6),
            again in prop::collection::vec((0..60_usize, 0..60_usize), 0..4),
        ) {
            let log: Vec<_> = (0..).zip(events).map(|(offset, event)| at(offset, event)).collect();
            let mut ends: Vec<_> = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
            ends.push(log.len());
            ends.sort_unstable();
            let (mut rows, mut start) = (Rows::new(), 0);
            for end in ends {
                apply_to(&mut rows, &Users::fold(&(), &log[start..end], &[]).changes);
                start = end;
            }
            // What was folded already, folded once more and late, changes nothing.
            for (start, end) in again {
                let end = end.min(log.len());
                apply_to(&mut rows, &Users::fold(&(), &log[start.min(end)..end], &[]).changes);
            }
            let there = rows.into_iter().filter_map(|(id, (profile, _))| Some((id, profile?)));
            prop_assert_eq!(there.collect::<BTreeMap<_, _>>(), naive(&log));
        }
    }
}
