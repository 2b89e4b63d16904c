//! Profiles from files, and sample profiles. Before this: `schemas/src/users.rs`; next: `processors/src/users.rs`.

use std::{io::BufRead, path::Path};

use csv::ByteRecord;
use rand::{RngExt, seq::IndexedRandom};
use schemas::{
    event::Fault,
    users::{UserEvent, UserProfileSet},
};

use self::lines::Lines;
use crate::clock;

mod lines;

/// The largest row that is read, in bytes: a quote that is not closed makes one row of the rest of the file.
pub const ROW_BYTES_MAX: usize = 1 << 20;

const COLUMNS: [&str; 3] = ["user_id", "deeplink", "promo_message"];

/// How a file of profiles is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Columns by the names of the fields, in any order, and a row a profile.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

impl Format {
    /// As the name says, or else as the first bytes look.
    pub fn of(name: &Path, first: &[u8]) -> Self {
        let ending = name.extension().unwrap_or_default().to_ascii_lowercase();
        match ending.to_str() {
            Some("csv") => return Self::Csv,
            Some("ndjson" | "jsonl" | "json") => return Self::Ndjson,
            _ => {}
        }
        let text = first.strip_prefix(BYTE_ORDER_MARK).unwrap_or(first);
        match text.trim_ascii_start() {
            [b'{', ..] => Self::Ndjson,
            _ => Self::Csv,
        }
    }

    /// The ending of such a file's name.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A row that is no profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// Why a file cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The first line of a CSV file does not name the columns.
    #[error("the first line has to name the columns user_id, deeplink and promo_message: {0}")]
    Head(String),
    /// More than [`ROW_BYTES_MAX`].
    #[error("the row of line {0} has more than {ROW_BYTES_MAX} bytes: is a quote not closed?")]
    TooLong(u64),
}

/// The rows of a file, read one after the other: never more than one of them is in memory.
pub struct Rows<R: BufRead>(Inner<R>);

enum Inner<R: BufRead> {
    Csv(CsvRows<R>),
    Ndjson(Lines<R>),
}

struct CsvRows<R: BufRead> {
    reader: csv::Reader<Lines<R>>,
    /// The line with the names of the columns, as it came.
    head: Vec<u8>,
    /// Where the fields of a profile stand, in the order of [`COLUMNS`].
    places: [usize; COLUMNS.len()],
    record: ByteRecord,
}

impl<R: BufRead> Rows<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// If the file does, or its columns are not those of a profile.
    pub fn new(file: R, format: Format) -> Result<Self, ReadError> {
        let lines = Lines::new(file);
        Ok(Self(match format {
            Format::Csv => Inner::Csv(CsvRows::new(lines)?),
            Format::Ndjson => Inner::Ndjson(lines),
        }))
    }

    /// The next profile, or what is wrong with the next row; `None` at the end.
    ///
    /// # Errors
    /// If reading cannot go on.
    pub fn read(&mut self) -> Result<Option<Result<UserProfileSet, BadRow>>, ReadError> {
        match &mut self.0 {
            Inner::Csv(rows) => rows.read(),
            Inner::Ndjson(lines) => {
                let Some(row) = lines.next_row()? else {
                    return Ok(None);
                };
                let read = from_json(row);
                Ok(Some(of_line(lines.line(), read)))
            }
        }
    }

    /// What the rows stand under, as it came: nothing, or the names of the columns.
    pub fn head(&self) -> &[u8] {
        match &self.0 {
            Inner::Csv(rows) => &rows.head,
            Inner::Ndjson(_) => &[],
        }
    }

    /// The row that was read last, as it came.
    pub fn row(&self) -> &[u8] {
        match &self.0 {
            Inner::Csv(rows) => rows.reader.get_ref().row(),
            Inner::Ndjson(lines) => lines.row(),
        }
    }
}

fn of_line(line: u64, read: Result<UserProfileSet, Vec<Fault>>) -> Result<UserProfileSet, BadRow> {
    read.map_err(|faults| BadRow { line, faults })
}

fn from_json(row: &[u8]) -> Result<UserProfileSet, Vec<Fault>> {
    if let Ok(set) = serde_json::from_slice::<UserProfileSet>(row)
        && set.faults().is_empty()
    {
        return Ok(set);
    }
    // Slower, and names every fault.
    let value = serde_json::from_slice(row).map_err(|error| {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        let column = error.column();
        vec![Fault::new(
            "",
            format!("is not JSON: {reason}, column {column}"),
        )]
    })?;
    UserProfileSet::read(value)
}

impl<R: BufRead> CsvRows<R> {
    fn new(lines: Lines<R>) -> Result<Self, ReadError> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(lines);
        let mut names = ByteRecord::new();
        read_into(&mut reader, &mut names)?;
        let head = reader.get_ref().row().to_vec();
        let names: Vec<_> = names
            .iter()
            .map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned())
            .collect();
        let places = places(&names).map_err(ReadError::Head)?;
        Ok(Self {
            reader,
            head,
            places,
            record: ByteRecord::new(),
        })
    }

    fn read(&mut self) -> Result<Option<Result<UserProfileSet, BadRow>>, ReadError> {
        if !read_into(&mut self.reader, &mut self.record)? {
            return Ok(None);
        }
        let line = self.reader.get_ref().line();
        Ok(Some(of_line(line, self.profile())))
    }

    fn profile(&self) -> Result<UserProfileSet, Vec<Fault>> {
        if self.record.len() != COLUMNS.len() {
            let message = format!("has {} fields, not {}", self.record.len(), COLUMNS.len());
            return Err(vec![Fault::new("", message)]);
        }
        let mut faults = Vec::new();
        let [user_id, deeplink, promo_message] = [0, 1, 2].map(|column| {
            let bytes = &self.record[self.places[column]];
            std::str::from_utf8(bytes).map_or_else(
                |_| {
                    faults.push(Fault::new(COLUMNS[column], "is not UTF-8 text"));
                    String::new()
                },
                str::to_owned,
            )
        });
        let set = UserProfileSet {
            user_id,
            deeplink,
            promo_message,
        };
        let is_named = |fault: &Fault| faults.iter().any(|named| named.field == fault.field);
        let more: Vec<_> = set.faults().into_iter().filter(|f| !is_named(f)).collect();
        faults.extend(more);
        if faults.is_empty() {
            return Ok(set);
        }
        Err(faults)
    }
}

/// Reads a row; false at the end.
fn read_into<R: BufRead>(
    reader: &mut csv::Reader<Lines<R>>,
    record: &mut ByteRecord,
) -> Result<bool, ReadError> {
    reader.get_mut().begin();
    match reader.read_byte_record(record) {
        Ok(found) => Ok(found),
        // With rows of any length, nothing else is wrong with CSV.
        Err(_) if reader.get_ref().is_too_long() => {
            Err(ReadError::TooLong(reader.get_ref().line()))
        }
        Err(error) => Err(ReadError::File(error.into())),
    }
}

/// Where the columns stand among these names.
fn places(names: &[String]) -> Result<[usize; COLUMNS.len()], String> {
    if let Some(unknown) = names.iter().find(|name| !COLUMNS.contains(&name.as_str())) {
        return Err(format!("{unknown:?} is unknown"));
    }
    let mut places = [0; COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        let mut found = (0..).zip(names).filter(|(_, name)| *name == column);
        match (found.next(), found.next()) {
            (Some((index, _)), None) => *place = index,
            (None, _) => return Err(format!("{column} is missing")),
            (Some(_), Some(_)) => return Err(format!("{column} is there twice")),
        }
    }
    Ok(places)
}

/// Plausible profiles of the users `sample-1` to `sample-count`; the same for the same seed.
pub fn samples(count: usize, seed: u64) -> impl ExactSizeIterator<Item = UserEvent> {
    let mut chance = clock::generator(Some(seed));
    (0..count).map(move |number| {
        let (page, promo) = PROMOS.choose(&mut chance).expect("the list is not empty");
        let percent = chance.random_range(1..=14) * 5;
        UserEvent::UserProfileSet(UserProfileSet {
            user_id: format!("sample-{}", number + 1),
            deeplink: format!("shop://{page}/{}", chance.random_range(1..1_000)),
            promo_message: format!("{percent} % off {promo}"),
        })
    })
}

/// Where a deeplink leads, and what is to be had there.
const PROMOS: [(&str, &str); 6] = [
    ("sale", "everything today"),
    ("shoes", "running shoes this week"),
    ("books", "books, and no postage"),
    ("garden", "all that grows"),
    ("kitchen", "knives and pans"),
    ("games", "board games for two"),
];

#[cfg(test)]
mod tests;
