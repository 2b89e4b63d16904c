//! Checks and what they found: a line each, for people or for programs.

use std::fmt::Display;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::output;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// Prints each check as soon as it is made: a server that is away takes seconds.
pub(super) struct Report {
    json: bool,
    failed: u64,
    warnings: u64,
}

/// A check as programs get it.
#[derive(Serialize)]
struct Line {
    check: String,
    verdict: Verdict,
    found: String,
}

impl Report {
    /// Nothing is checked yet.
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            failed: 0,
            warnings: 0,
        }
    }

    /// Something that is as it has to be.
    pub(super) fn ok(&mut self, check: impl Display, found: impl Display) -> Result<()> {
        self.line(Verdict::Ok, &check, &found)
    }

    /// Something that a person has to judge. `found` says what to do, too.
    pub(super) fn warning(&mut self, check: impl Display, found: impl Display) -> Result<()> {
        self.warnings += 1;
        self.line(Verdict::Warning, &check, &found)
    }

    /// Something that keeps Millrace from its promises. `found` says what to do, too.
    pub(super) fn failed(&mut self, check: impl Display, found: impl Display) -> Result<()> {
        self.failed += 1;
        self.line(Verdict::Failed, &check, &found)
    }

    fn line(&self, verdict: Verdict, check: &dyn Display, found: &dyn Display) -> Result<()> {
        if self.json {
            return output::json(&Line {
                check: check.to_string(),
                verdict,
                found: found.to_string(),
            });
        }
        let word = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        };
        output::line(format_args!("{word:<8} {check}: {found}"))
    }

    /// Sums up.
    ///
    /// # Errors
    /// If a check failed.
    pub(super) fn end(&self) -> Result<()> {
        let warnings = output::count(self.warnings, "warning");
        if self.failed > 0 {
            bail!("{} failed, {warnings}", output::count(self.failed, "check"));
        }
        if !self.json {
            output::note(format_args!("no check failed, {warnings}"));
        }
        Ok(())
    }
}
