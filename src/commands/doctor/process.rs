//! This machine.

use anyhow::Result;
use api::files::{self, OpenFiles};

use super::Report;

/// Fewer open files are too few: the API takes one a connection, of which it lets in 20,000 unless told otherwise.
const FILES_MIN: u64 = 24_576;

pub(super) fn check(report: &mut Report) -> Result<()> {
    const CHECK: &str = "open files";
    let OpenFiles { now, at_most } = files::limits();
    let found = format!("at most {}, at first {}", in_words(at_most), in_words(now));
    // The API raises its own limit as far as it may.
    if at_most.is_some_and(|at_most| at_most < FILES_MIN) {
        return report.warning(
            CHECK,
            format_args!(
                "{found}, and each connection of the API takes one: allow {FILES_MIN} or more (`ulimit -Hn`)"
            ),
        );
    }
    report.ok(CHECK, found)
}

fn in_words(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
