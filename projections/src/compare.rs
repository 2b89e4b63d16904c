//! What is different between two generations of a projection: digests first, then the rows of those parts of a table
//! whose digests differ. Each side is read in a transaction of its own, which sees one moment.

use std::collections::{BTreeMap, VecDeque};

use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::try_join;

use crate::projection::Generation;

/// Into how many parts a table is cut by the hash of its keys.
const PARTS: i64 = 1_024;
/// How many rows are fetched at once.
const FETCHED_MAX: usize = 5_000;
/// The name under which dead letters are compared.
pub const DEAD_LETTERS: &str = "millrace.dead_letters";

/// One side: a connection within a transaction, and what it looks at.
pub struct Side<'c> {
    /// The connection.
    pub connection: &'c mut PgConnection,
    /// The generation.
    pub generation: Generation,
    /// The Postgres schema that has its tables.
    pub schema: String,
}

/// A table, as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    name: String,
    columns: Vec<String>,
    key: Vec<String>,
}

/// The cells of a row as text, in the order of the columns.
type Cells = Vec<Option<String>>;

/// What is different in a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// The table: `clicks.stats`.
    pub table: String,
    /// How many rows the second side has.
    pub rows: u64,
    /// Rows that the second side alone has.
    pub added: u64,
    /// Rows that the first side alone has.
    pub removed: u64,
    /// Rows that both have with other cells.
    pub changed: u64,
    /// In how many of these a column is different.
    pub columns: BTreeMap<String, u64>,
    /// The first of them by their keys, as far as they are remembered.
    pub examples: Vec<Example>,
}

/// A row that is different.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Example {
    /// Columns of the key and their cells.
    pub key: Vec<(String, String)>,
    /// The row of the first side, by column; none if it has none.
    pub first: Option<BTreeMap<String, Option<String>>>,
    /// The row of the second side.
    pub second: Option<BTreeMap<String, Option<String>>>,
}

impl Difference {
    /// How many rows are different.
    pub fn count(&self) -> u64 {
        self.added + self.removed + self.changed
    }
}

/// Compares two sides; `examples_max` rows of each table are remembered.
///
/// # Errors
/// If Postgres does not answer.
pub async fn compare(
    first: &mut Side<'_>,
    second: &mut Side<'_>,
    examples_max: usize,
) -> sqlx::Result<Vec<Difference>> {
    let mut differences = Vec::new();
    let (left, right) = (first.tables().await?, second.tables().await?);
    let names: BTreeMap<&str, ()> = left.iter().chain(&right).map(|t| (&*t.name, ())).collect();
    for name in names.into_keys() {
        let find = |tables: &[Table]| tables.iter().find(|table| table.name == name).cloned();
        let (left, right) = (find(&left), find(&right));
        differences.push(table(first, left, second, right, examples_max).await?);
    }
    Ok(differences)
}

/// Compares a table, if both have it: by the columns that both have.
async fn table(
    first: &mut Side<'_>,
    left: Option<Table>,
    second: &mut Side<'_>,
    right: Option<Table>,
    examples_max: usize,
) -> sqlx::Result<Difference> {
    let mut difference = Difference::default();
    let (left, right) = match (left, right) {
        (Some(left), Some(right)) if left.key == right.key => (left, right),
        (left, right) => {
            if let Some(left) = left {
                difference.table = first.name(&left);
                difference.removed = first.count(&left).await?;
            }
            if let Some(right) = right {
                difference.table = second.name(&right);
                difference.added = second.count(&right).await?;
                difference.rows = difference.added;
            }
            return Ok(difference);
        }
    };
    let mut table = right.clone();
    table.columns.retain(|column| left.columns.contains(column));
    difference.table = second.name(&table);
    let (left, right) = try_join!(first.digests(&table), second.digests(&table))?;
    difference.rows = right.values().map(|(count, _)| count.unsigned_abs()).sum();
    let parts: Vec<i32> = left
        .keys()
        .chain(right.keys())
        .filter(|part| left.get(part) != right.get(part))
        .copied()
        .collect();
    if parts.is_empty() {
        return Ok(difference);
    }
    first.open(&table, &parts).await?;
    second.open(&table, &parts).await?;
    let (mut left, mut right) = (Fetched::of(first), Fetched::of(second));
    loop {
        let (low, high) = (left.hash().await?, right.hash().await?);
        // Rows come in the order of a hash of their keys, so those of the same key meet.
        let Some(hash) = low.into_iter().chain(high).min() else {
            break;
        };
        let (lefts, rights) = (left.group(hash).await?, right.group(hash).await?);
        difference.note(&table, lefts, rights, examples_max);
    }
    left.side.close().await?;
    right.side.close().await?;
    Ok(difference)
}

impl Side<'_> {
    async fn tables(&mut self) -> sqlx::Result<Vec<Table>> {
        let rows = sqlx::query(
            "SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum),
                 coalesce(array_agg(a.attname::text ORDER BY array_position(k.conkey, a.attnum))
                     FILTER (WHERE a.attnum = ANY(k.conkey)), '{}')
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                 LEFT JOIN pg_constraint AS k ON k.conrelid = c.oid AND k.contype = 'p'
             WHERE n.nspname = $1 AND c.relkind = 'r'
             GROUP BY c.relname ORDER BY c.relname",
        )
        .bind(&self.schema)
        .fetch_all(&mut *self.connection)
        .await?;
        let mut tables = Vec::new();
        for row in &rows {
            tables.push(Table {
                name: row.try_get(0)?,
                columns: row.try_get(1)?,
                key: row.try_get(2)?,
            });
        }
        tables.push(Table {
            name: DEAD_LETTERS.to_owned(),
            columns: ["partition", "offset", "reason", "record_at"]
                .map(str::to_owned)
                .into(),
            key: ["partition", "offset"].map(str::to_owned).into(),
        });
        Ok(tables)
    }

    /// The name of a table, as it is when its generation is live.
    fn name(&self, table: &Table) -> String {
        match table.name.as_str() {
            DEAD_LETTERS => DEAD_LETTERS.to_owned(),
            name => format!("{}.{name}", self.generation.projection),
        }
    }

    /// What to read from.
    fn source(&self, table: &Table) -> String {
        let Generation {
            projection, number, ..
        } = self.generation;
        match table.name.as_str() {
            DEAD_LETTERS => format!(
                "(SELECT * FROM {DEAD_LETTERS} WHERE projection = '{projection}' AND generation = {number}) AS t"
            ),
            name => format!("{}.{} AS t", self.schema, quoted(name)),
        }
    }

    async fn count(&mut self, table: &Table) -> sqlx::Result<u64> {
        let select = format!("SELECT count(*) FROM {}", self.source(table));
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(select))
            .fetch_one(&mut *self.connection)
            .await?;
        Ok(count.unsigned_abs())
    }

    /// The parts of a table, each with the number of its rows and a digest of them. Keys are unique, so no two rows
    /// of a side cancel each other out.
    async fn digests(&mut self, table: &Table) -> sqlx::Result<BTreeMap<i32, (i64, i64)>> {
        let select = format!(
            "SELECT {}::int, count(*), bit_xor(hash_record_extended(ROW({}), 1)) FROM {} GROUP BY 1",
            part(table),
            list(&table.columns),
            self.source(table)
        );
        let rows = sqlx::query(AssertSqlSafe(select))
            .fetch_all(&mut *self.connection)
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?))))
            .collect()
    }

    /// Begins to read the rows of these parts, in the order of a hash of their keys.
    async fn open(&mut self, table: &Table, parts: &[i32]) -> sqlx::Result<()> {
        let cells = table.columns.iter().map(|column| quoted(column) + "::text");
        let parts: Vec<_> = parts.iter().map(ToString::to_string).collect();
        let declare = format!(
            "DECLARE rows NO SCROLL CURSOR FOR
             SELECT {} AS hash, ARRAY[{}] FROM {} WHERE {} IN ({}) ORDER BY 1",
            hash(table),
            cells.collect::<Vec<_>>().join(", "),
            self.source(table),
            part(table),
            parts.join(", ")
        );
        run(self.connection, declare).await
    }

    async fn fetch(&mut self) -> sqlx::Result<VecDeque<(i64, Cells)>> {
        let fetch = format!("FETCH {FETCHED_MAX} FROM rows");
        let rows = sqlx::query(AssertSqlSafe(fetch))
            .persistent(false)
            .fetch_all(&mut *self.connection)
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    async fn close(&mut self) -> sqlx::Result<()> {
        run(self.connection, "CLOSE rows".to_owned()).await
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn list(columns: &[String]) -> String {
    let quoted: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
    quoted.join(", ")
}

fn hash(table: &Table) -> String {
    format!("hash_record_extended(ROW({}), 0)", list(&table.key))
}

/// The part of a table that a row belongs to.
fn part(table: &Table) -> String {
    format!("({} & {})", hash(table), PARTS - 1)
}

/// Rows of a side, as they come.
struct Fetched<'s, 'c> {
    side: &'s mut Side<'c>,
    rows: VecDeque<(i64, Cells)>,
    is_end: bool,
}

impl<'s, 'c> Fetched<'s, 'c> {
    fn of(side: &'s mut Side<'c>) -> Self {
        Self {
            side,
            rows: VecDeque::new(),
            is_end: false,
        }
    }

    /// The hash of the next row.
    async fn hash(&mut self) -> sqlx::Result<Option<i64>> {
        if self.rows.is_empty() && !self.is_end {
            self.rows = self.side.fetch().await?;
            self.is_end = self.rows.len() < FETCHED_MAX;
        }
        Ok(self.rows.front().map(|(hash, _)| *hash))
    }

    /// The rows of this hash; more than one if keys collide.
    async fn group(&mut self, hash: i64) -> sqlx::Result<Vec<Cells>> {
        let mut group = Vec::new();
        while self.hash().await? == Some(hash) {
            group.extend(self.rows.pop_front().map(|(_, cells)| cells));
        }
        Ok(group)
    }
}

impl Difference {
    /// Notes what is different between rows of both sides whose keys have the same hash.
    fn note(
        &mut self,
        table: &Table,
        firsts: Vec<Cells>,
        mut seconds: Vec<Cells>,
        examples_max: usize,
    ) {
        for first in firsts {
            let same = |second: &Cells| table.key_of(second) == table.key_of(&first);
            match seconds.iter().position(same) {
                None => self.note_row(table, Some(first), None, examples_max),
                Some(at) => {
                    let second = seconds.swap_remove(at);
                    if first != second {
                        self.note_row(table, Some(first), Some(second), examples_max);
                    }
                }
            }
        }
        for second in seconds {
            self.note_row(table, None, Some(second), examples_max);
        }
    }

    fn note_row(
        &mut self,
        table: &Table,
        first: Option<Cells>,
        second: Option<Cells>,
        examples_max: usize,
    ) {
        match (&first, &second) {
            (Some(first), Some(second)) => {
                self.changed += 1;
                let cells = first.iter().zip(second).zip(&table.columns);
                for (_, column) in cells.filter(|((first, second), _)| first != second) {
                    *self.columns.entry(column.clone()).or_default() += 1;
                }
            }
            (None, _) => self.added += 1,
            (_, None) => self.removed += 1,
        }
        let Some(any) = first.as_ref().or(second.as_ref()) else {
            return;
        };
        let key = table.key_of(any).into_iter().map(|(column, cell)| {
            let cell = cell.cloned().unwrap_or_default();
            (column.clone(), cell)
        });
        let key = key.collect();
        let named = |cells: Cells| table.columns.iter().cloned().zip(cells).collect();
        let example = Example {
            key,
            first: first.map(named),
            second: second.map(named),
        };
        // Those with the smallest keys are remembered, so that the same fault shows the same rows.
        let at = self.examples.partition_point(|known| *known < example);
        self.examples.insert(at, example);
        self.examples.truncate(examples_max);
    }
}

impl Table {
    fn key_of<'a>(&'a self, cells: &'a Cells) -> Vec<(&'a String, Option<&'a String>)> {
        let named = self.columns.iter().zip(cells);
        let keys = named.filter(|(column, _)| self.key.contains(column));
        keys.map(|(column, cell)| (column, cell.as_ref())).collect()
    }
}

async fn run(connection: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            name: "stats".to_owned(),
            columns: ["banner_id", "v"].map(str::to_owned).into(),
            key: ["banner_id"].map(str::to_owned).into(),
        }
    }

    fn row(banner: i64, v: i64) -> Cells {
        vec![Some(banner.to_string()), Some(v.to_string())]
    }

    #[test]
    fn rows_are_paired_by_their_keys_even_if_hashes_collide() {
        let mut difference = Difference::default();
        let first = vec![row(1, 10), row(2, 20), row(3, 30)];
        let second = vec![row(4, 40), row(3, 31), row(1, 10)];
        difference.note(&table(), first, second, 10);
        let counts = (difference.added, difference.removed, difference.changed);
        assert_eq!(counts, (1, 1, 1));
        assert_eq!(difference.columns, BTreeMap::from([("v".to_owned(), 1)]));
        let keys: Vec<_> = difference.examples.iter().map(|e| &*e.key[0].1).collect();
        assert_eq!(keys, ["2", "3", "4"]);
    }

    #[test]
    fn as_many_examples_are_remembered_as_wanted() {
        let mut difference = Difference::default();
        for banner in (0..9).rev() {
            difference.note(&table(), vec![row(banner, 1)], Vec::new(), 2);
        }
        assert_eq!(difference.count(), 9);
        let keys: Vec<_> = difference.examples.iter().map(|e| &*e.key[0].1).collect();
        assert_eq!(keys, ["0", "1"]);
    }
}
