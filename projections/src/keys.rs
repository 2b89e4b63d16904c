//! Tables without their keys and indexes, for the time in which they are filled: made at the end, an index costs a
//! fraction of what it costs row by row.

use sqlx::{AssertSqlSafe, PgConnection, Row};

/// The keys and indexes that tables have lost, as statements that make them.
#[derive(Debug)]
pub struct Keys(Vec<String>);

/// Keys first, then indexes, foreign keys last: each needs those before it.
const ALL: &str = "
    SELECT format('ALTER TABLE %I.%I DROP CONSTRAINT %I', n.nspname, c.relname, k.conname),
        format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', n.nspname, c.relname, k.conname,
            pg_get_constraintdef(k.oid)),
        CASE k.contype WHEN 'f' THEN 2 ELSE 0 END
    FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND k.contype IN ('p', 'u', 'x', 'f')
    UNION ALL
    SELECT format('DROP INDEX %I.%I', n.nspname, c.relname), pg_get_indexdef(c.oid), 1
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relkind = 'i' AND NOT EXISTS (
        SELECT FROM pg_constraint AS k WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x'))
    ORDER BY 3, 1";

impl Keys {
    /// Takes the keys and indexes from the tables of a schema, which has to come first in the connection's search path.
    ///
    /// # Errors
    /// If Postgres does not do it.
    pub async fn take(connection: &mut PgConnection, schema: &str) -> sqlx::Result<Self> {
        let rows = sqlx::query(ALL)
            .bind(schema)
            .fetch_all(&mut *connection)
            .await?;
        let mut give = Vec::new();
        for row in &rows {
            give.push(row.try_get(1)?);
        }
        for row in rows.iter().rev() {
            run(connection, row.try_get(0)?).await?;
        }
        Ok(Self(give))
    }

    /// Gives them back.
    ///
    /// # Errors
    /// If Postgres does not do it, or the rows contradict them.
    pub async fn give(self, connection: &mut PgConnection) -> sqlx::Result<()> {
        for statement in self.0 {
            run(connection, statement).await?;
        }
        Ok(())
    }
}

async fn run(connection: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await?;
    Ok(())
}
