//! Results to stdout, errors to stderr.

use std::{
    error::Error,
    fmt::{self, Display},
    io::{self, ErrorKind, Write},
};

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

/// Nobody reads stdout any more.
#[derive(Debug)]
pub struct ReaderGone;

impl Display for ReaderGone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("nobody reads the output any more")
    }
}

impl Error for ReaderGone {}

/// Writes a line to stdout.
///
/// # Errors
/// [`ReaderGone`], or what else keeps stdout from being written.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    lines(&format!("{text}\n"))
}

/// Writes whole lines to stdout.
///
/// # Errors
/// As [`line()`].
pub fn lines(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => Ok(written?),
    }
}

/// Writes a value to stdout as one line of JSON.
///
/// # Errors
/// As [`line()`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value)?)
}

/// Writes a line to stderr, for the person who watches.
pub fn note(text: impl Display) {
    // Nobody is left to be told if this cannot be written.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes an error to stderr, in one line.
pub fn error(error: &anyhow::Error) {
    note(format_args!("error: {}", with_cause(error)));
}

/// An error with its first cause.
pub fn with_cause(error: &anyhow::Error) -> String {
    let cause = error.root_cause().to_string();
    let text = error.to_string();
    if text.contains(&cause) {
        return text;
    }
    format!("{text} ({cause})")
}

/// A table without lines around it, one row a line.
pub fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    table
}

/// Aligns columns of numbers, given from 0, to the right.
pub fn align_right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Writes a table to stdout, without the blanks that fill its last column.
///
/// # Errors
/// As [`line()`].
pub fn print(table: &Table) -> anyhow::Result<()> {
    line(table.trim_fmt())
}

/// The age of something, such as `3m 20s`.
pub fn age(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{}s", seconds.max(0)),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A time in milliseconds since 1970-01-01T00:00:00Z, as RFC 3339 has it.
pub fn time(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms)
        .unwrap_or_default()
        .to_string()
}

/// `1 order`, `1,234 orders`.
pub fn count(number: u64, one: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {one}{ending}", grouped(number))
}

/// A number with a comma between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(count(1, "order"), "1 order");
        assert_eq!(count(1_000, "order"), "1,000 orders");
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [
            (-1, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (7_260, "2h 1m"),
            (180_000, "2d 2h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
