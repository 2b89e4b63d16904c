//! This machine.

use std::fs;

use anyhow::Result;

use super::Report;

/// Fewer open files are too few: the API takes one a connection, of which it lets in 20,000 unless told otherwise.
const FILES_MIN: u64 = 24_576;

pub(super) fn check(report: &mut Report) -> Result<()> {
    const CHECK: &str = "open files";
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let Some((soft, hard)) = soft_and_hard(&limits) else {
        return report.warning(CHECK, "this system does not tell how many are allowed");
    };
    let found = format!("at most {hard}, at first {soft}");
    // The API raises its own limit as far as it may. What is no number is no limit.
    if hard.parse().is_ok_and(|hard: u64| hard < FILES_MIN) {
        return report.warning(
            CHECK,
            format_args!(
                "{found}, and each connection of the API takes one: allow {FILES_MIN} or more (`ulimit -Hn`)"
            ),
        );
    }
    report.ok(CHECK, found)
}

/// The limits of open files, in the system's words.
fn soft_and_hard(limits: &str) -> Option<(&str, &str)> {
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    let mut words = line.split_whitespace();
    Some((words.next()?, words.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_linux_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95915                95915                processes \n\
                      Max open files            1024                 unlimited            files     \n";
        assert_eq!(soft_and_hard(limits), Some(("1024", "unlimited")));
        assert_eq!(soft_and_hard(""), None);
    }
}
