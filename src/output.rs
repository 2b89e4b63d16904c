//! Results to stdout, errors to stderr.

use std::{
    error::Error,
    fmt::{self, Display},
    io::{self, ErrorKind, Write},
};

use comfy_table::{Table, presets};
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
    let mut out = io::stdout().lock();
    written(writeln!(out, "{text}"))?;
    written(out.flush())
}

/// Writes a value to stdout as one line of JSON.
///
/// # Errors
/// As [`line`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value)?)
}

/// Tells a reader that has gone from other failures.
///
/// # Errors
/// As [`line`].
pub fn written(outcome: io::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        outcome => Ok(outcome?),
    }
}

/// Writes a line to stderr, for the person who watches.
pub fn note(text: impl Display) {
    // Nobody is left to be told if this cannot be written.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes an error to stderr, in one line, with its first cause.
pub fn error(error: &anyhow::Error) {
    let cause = error.root_cause().to_string();
    let text = error.to_string();
    if text.contains(&cause) {
        return note(format_args!("error: {text}"));
    }
    note(format_args!("error: {text} ({cause})"));
}

/// A table without lines around it, one row a line.
pub fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    table
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
}
