//! The table of the users. Before this: `processors/src/users.rs`; next: `api/src/routes/users.rs`.

use schemas::users::{Profile, TOPIC};
use sqlx::{PgConnection, Row, postgres::PgRow};

use crate::{
    pool::Pool,
    projection::{Changes, Projection},
};

/// The projection.
pub static PROJECTION: Projection = Projection {
    name: "users",
    of: &TOPIC,
    version: 1,
    tables: include_str!("../sql/users.sql"),
    fold_settings: &[],
};

/// What a record makes of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said<'a> {
    /// The user.
    pub user_id: &'a str,
    /// Deeplink and promo message; `None` if the user was removed.
    pub profile: Option<(&'a str, &'a str)>,
    /// The record.
    pub partition: i32,
    /// The record.
    pub offset: i64,
}

impl Changes for Vec<Said<'_>> {
    /// Writes what was said last of each user, sorted by user, one row a user. What the table has from a later record
    /// stays: all records of a user are in one partition, so offsets alone decide.
    async fn apply(&self, transaction: &mut PgConnection) -> sqlx::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        sqlx::query(
            r#"INSERT INTO users AS u (user_id, deeplink, promo_message, partition, "offset")
               SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[])
               ON CONFLICT (user_id) DO UPDATE SET
                   deeplink = excluded.deeplink, promo_message = excluded.promo_message,
                   partition = excluded.partition, "offset" = excluded."offset"
               WHERE u."offset" < excluded."offset""#,
        )
        .bind(self.iter().map(|said| said.user_id).collect::<Vec<_>>())
        .bind(self.iter().map(Said::deeplink).collect::<Vec<_>>())
        .bind(self.iter().map(Said::promo_message).collect::<Vec<_>>())
        .bind(self.iter().map(|said| said.partition).collect::<Vec<_>>())
        .bind(self.iter().map(|said| said.offset).collect::<Vec<_>>())
        .execute(transaction)
        .await?;
        Ok(())
    }
}

impl<'a> Said<'a> {
    fn deeplink(&self) -> Option<&'a str> {
        self.profile.map(|(deeplink, _)| deeplink)
    }

    fn promo_message(&self) -> Option<&'a str> {
        self.profile.map(|(_, promo_message)| promo_message)
    }
}

/// A user at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The profile; `None` if there is no user of this id.
    pub profile: Option<Profile>,
    /// The checkpoint of the user's partition at that moment: everything before it is in.
    pub next_offset: i64,
}

/// Reads users, by id and partition, and the checkpoints of their partitions, all as of one moment.
///
/// # Errors
/// If Postgres does not answer.
pub async fn find(pool: &Pool, users: &[(String, i32)]) -> sqlx::Result<Vec<Found>> {
    let mut connection = pool.borrow().await?;
    // One statement, so that users and checkpoints are of one moment.
    let rows = sqlx::query(
        "SELECT coalesce(
             (SELECT c.next_offset FROM millrace.checkpoints AS c
              WHERE c.projection = 'users' AND c.live AND c.partition = asked.partition), 0),
             u.deeplink, u.promo_message
         FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS asked(user_id, partition, place)
         LEFT JOIN users.users AS u USING (user_id) ORDER BY asked.place",
    )
    .bind(users.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
    .bind(
        users
            .iter()
            .map(|(_, partition)| *partition)
            .collect::<Vec<_>>(),
    )
    .fetch_all(&mut *connection)
    .await?;
    connection.give_back();
    rows.iter().map(found).collect()
}

fn found(row: &PgRow) -> sqlx::Result<Found> {
    let (deeplink, promo_message): (Option<String>, Option<String>) =
        (row.try_get(1)?, row.try_get(2)?);
    let profile = deeplink
        .zip(promo_message)
        .map(|(deeplink, promo_message)| Profile {
            deeplink,
            promo_message,
        });
    Ok(Found {
        profile,
        next_offset: row.try_get(0)?,
    })
}
