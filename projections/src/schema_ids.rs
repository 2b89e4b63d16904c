//! What the registry said of a schema id when it was first met. A registry that says something else later has lost
//! its data or is another one, and the log would be read with the wrong schemas.

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
    // The update changes nothing; it makes the row come back when it was there already.
    let row = sqlx::query(
        "INSERT INTO millrace.schema_ids AS known (subject, schema_id, fingerprint)
         VALUES ($1, $2, $3)
         ON CONFLICT (subject, schema_id) DO UPDATE SET fingerprint = known.fingerprint
         RETURNING fingerprint",
    )
    .bind(subject)
    .bind(i64::from(schema_id))
    .bind(fingerprint)
    .fetch_one(connection)
    .await?;
    row.try_get(0)
}
