//! What the registry said of a schema id when it was first met. A registry that says something else later has lost
//! its data or is another one, and the log would be read with the wrong schemas. Only an id that it did not have may
//! get a meaning: a record of a foreign writer may have named it before the registry gave it out.

use sqlx::{PgConnection, Row};

/// Remembers the fingerprint of `schema_id`, or gives the one that is remembered.
///
/// # Errors
/// If Postgres does not answer.
pub async fn first_met(
    connection: &mut PgConnection,
    subject: &str,
    schema_id: u32,
    fingerprint: &str,
) -> sqlx::Result<String> {
    let row = sqlx::query(
        "INSERT INTO millrace.schema_ids AS known (subject, schema_id, fingerprint)
         VALUES ($1, $2, $3)
         ON CONFLICT (subject, schema_id) DO UPDATE SET fingerprint =
             CASE known.fingerprint WHEN 'none' THEN excluded.fingerprint ELSE known.fingerprint END
         RETURNING fingerprint",
    )
    .bind(subject)
    .bind(i64::from(schema_id))
    .bind(fingerprint)
    .fetch_one(connection)
    .await?;
    row.try_get(0)
}
