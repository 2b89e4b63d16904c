//! The page `/log`: every topic, and how far each projection has folded it. Before this: `api/src/overview.rs`; next:
//! `log.html` beside it.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use producers::clock;

use super::{PAGES, answer, format};
use crate::{
    app::Core,
    overview::{BuildStands, LogStands, ProjectionStands},
};

/// What was seen longer ago is old: it is looked every two seconds.
const FRESH_MS: i64 = 10_000;

#[derive(Template)]
#[template(path = "log.html")]
struct LogPage {
    /// None before the first look.
    seen: Option<Arc<LogStands>>,
    is_fresh: bool,
    /// Why the process is not ready, as `/readyz` says it; none if it is.
    reasons: Vec<String>,
}

/// Shows the page.
pub async fn show(State(core): State<Arc<Core>>) -> Response {
    let seen = core.app.overview.seen();
    let age_ms = |seen: &Arc<LogStands>| clock::now_ms() - seen.observed_at.as_millisecond();
    let is_fresh = seen.as_ref().is_some_and(|seen| age_ms(seen) < FRESH_MS);
    let status = match seen {
        Some(_) => StatusCode::OK,
        None => StatusCode::SERVICE_UNAVAILABLE,
    };
    let reasons = core.app.services.status.not_ready();
    let page = LogPage {
        seen,
        is_fresh,
        reasons,
    };
    answer(status, &page)
}

/// How far behind: `nothing`, or `1,234 records, 5.2 s`.
fn behind(records: i64, seconds: f64) -> String {
    match records {
        0 => "nothing".to_owned(),
        1 => format!("1 record, {seconds:.1} s"),
        _ => format!("{} records, {seconds:.1} s", format::count(records)),
    }
}

/// How far a build is: `1,234 of 10,000 records, 12 %`.
fn done(build: &BuildStands) -> String {
    let (records, total) = (build.records, build.records_total);
    // Of what has just begun nobody knows yet how much it is, and to remove tables takes no record.
    if total == 0 {
        return String::new();
    }
    let percent = records.min(total) * 100 / total;
    let [records, total] = [records, total].map(format::count);
    format!("{records} of {total} records, {percent} %")
}

/// How many dead letters, as far as they are counted.
fn dead_letters(stands: &ProjectionStands) -> String {
    let more = if stands.dead_letters_more { "+" } else { "" };
    format!("{}{more}", format::count(stands.dead_letters))
}
