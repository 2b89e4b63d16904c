//! Rows as COPY takes them, for tables that are filled as a whole. Before this: `processors/src/replay/whole.rs`.

use sqlx::PgConnection;

/// What the binary format begins with, <https://www.postgresql.org/docs/current/sql-copy.html>: a signature, no flags,
/// and no more header.
const BEGINNING: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In place of a row's number of columns.
const END: i16 = -1;
/// 2000-01-01T00:00:00Z, from which Postgres counts, in milliseconds since 1970-01-01T00:00:00Z.
const POSTGRES_EPOCH_MS: i64 = 946_684_800_000;

/// Rows of one table, in the binary format of COPY.
#[derive(Debug, Clone)]
pub struct Rows {
    into: &'static str,
    bytes: Vec<u8>,
}

impl Rows {
    /// No rows yet, for a table and its columns: `stats (banner_id, ts, partition, v)`.
    pub fn new(into: &'static str) -> Self {
        Self {
            into,
            bytes: BEGINNING.to_vec(),
        }
    }

    /// Begins a row of so many columns; their values have to follow, in their order.
    pub fn row(&mut self, columns: i16) -> &mut Self {
        self.bytes.extend_from_slice(&columns.to_be_bytes());
        self
    }

    /// A value of type `bigint`.
    pub fn bigint(&mut self, value: i64) -> &mut Self {
        self.value(&value.to_be_bytes())
    }

    /// A value of type `integer`.
    pub fn integer(&mut self, value: i32) -> &mut Self {
        self.value(&value.to_be_bytes())
    }

    /// A value of type `text`.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.value(value.as_bytes())
    }

    /// A value of type `bytea`.
    pub fn bytea(&mut self, value: &[u8]) -> &mut Self {
        self.value(value)
    }

    /// A value of type `timestamptz`, given in milliseconds since 1970-01-01T00:00:00Z.
    pub fn time(&mut self, at_ms: i64) -> &mut Self {
        self.bigint((at_ms - POSTGRES_EPOCH_MS) * 1_000)
    }

    fn value(&mut self, bytes: &[u8]) -> &mut Self {
        let len = i32::try_from(bytes.len()).expect("no value is longer than a record");
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// How many bytes they take.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == BEGINNING.len()
    }

    /// Gives the rows, and has none afterwards.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.into))
    }

    /// Writes the rows.
    ///
    /// # Errors
    /// If Postgres does not do it.
    pub async fn copy(mut self, connection: &mut PgConnection) -> sqlx::Result<()> {
        self.bytes.extend_from_slice(&END.to_be_bytes());
        let statement = format!("COPY {} FROM STDIN (FORMAT binary)", self.into);
        let mut copying = connection.copy_in_raw(&statement).await?;
        copying.send(&self.bytes[..]).await?;
        copying.finish().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_binary_format_of_copy() {
        let mut rows = Rows::new("t (a, b, c)");
        assert!(rows.is_empty());
        rows.row(3)
            .integer(7)
            .text("ab")
            .time(POSTGRES_EPOCH_MS + 1);
        let taken = rows.take();
        assert!(rows.is_empty() && !taken.is_empty());
        let row = &taken.bytes[BEGINNING.len()..];
        assert_eq!(row[..2], [0, 3]);
        assert_eq!(row[2..10], [0, 0, 0, 4, 0, 0, 0, 7]);
        assert_eq!(row[10..16], [0, 0, 0, 2, b'a', b'b']);
        assert_eq!(row[16..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 3, 232]);
    }
}
