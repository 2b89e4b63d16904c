//! What the registry said of a schema id when it was first met. A registry that says something else later has lost
//! its data or is another one, and the log would be read with the wrong schemas. Only an id that it did not have may
//! get a meaning: a record of a foreign writer may have named it before the registry gave it out.

use sqlx::{PgConnection, Row, postgres::PgRow};

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

/// A schema id, as the registry explained it when it was first met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// The subject of the topic on which it was met.
    pub subject: String,
    /// The id.
    pub schema_id: u32,
    /// The fingerprint of its schema.
    pub fingerprint: String,
}

/// The ids that had a schema, the newest first, at most `limit`: of one subject or all.
///
/// # Errors
/// If Postgres does not answer.
pub async fn newest(
    connection: &mut PgConnection,
    subject: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<Met>> {
    let rows = sqlx::query(
        "SELECT subject, schema_id, fingerprint FROM millrace.schema_ids
         WHERE fingerprint NOT IN ('none', 'foreign') AND ($1::text IS NULL OR subject = $1)
         ORDER BY first_met_at DESC, subject, schema_id LIMIT $2",
    )
    .bind(subject)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let met = |row: &PgRow| {
        Ok(Met {
            subject: row.try_get(0)?,
            schema_id: u32::try_from(row.try_get::<i64, _>(1)?).unwrap_or(u32::MAX),
            fingerprint: row.try_get(2)?,
        })
    };
    rows.iter().map(met).collect()
}
