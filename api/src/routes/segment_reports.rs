//! What happened to memberships: reports that are asked for, waited for and taken. Before this:
//! `projections/src/segment_reports.rs`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::civil::DateTime;
use producers::clock;
use projections::{
    segment_reports::{Office, Report, ReportError, office},
    segments::PROJECTION,
};
use schemas::{event::Event, segments::SegmentEvent};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::Core,
    document::{self, LimitedReads, NotFound, ReportFileProblems, ReportProblems},
    error::ApiError,
    limiter::within,
    segments::{
        tasks::{TASK_CHARS, Tasks},
        transfer,
    },
};

/// The only partition of the topic.
const PARTITION: i32 = 0;
const CSV: HeaderValue = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
const NO_STORE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// The routes of the reports.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(request_report))
        .routes(routes!(check_report))
        .routes(routes!(get_report))
}

/// The query of a report.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// From which minute on, in UTC.
    #[param(
        required = true,
        pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}$",
        example = "2023-08-29 10:32"
    )]
    date: Option<String>,
    /// Only of this user.
    #[param(minimum = 0, example = 1)]
    user_id: Option<i64>,
}

/// A report that was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReportTask)]
struct Task {
    #[schema(value_type = TaskId)]
    task_id: String,
}

/// The name of a report that was asked for.
struct TaskId;

impl PartialSchema for TaskId {
    fn schema() -> RefOr<Schema> {
        document::part(json!({
            "type": "string",
            "description": "Names a report. It says all there is to know of it, and is signed: every process answers for it.",
            "pattern": format!("^[A-Za-z0-9_-]{{{TASK_CHARS}}}$"),
        }))
    }
}

impl ToSchema for TaskId {}

/// Ask for a report
///
/// All changes of memberships from a minute until now, also those by which nobody asked for anything: the end of a time,
/// and that of a segment.
#[utoipa::path(
    get, path = "/report", tag = "segments", params(Asked),
    responses(
        (
            status = 202, description = "It can be waited for.", body = Task,
            links(("check" = (
                operation_id = "check_report",
                description = "Says whether it is done.",
                parameters(("query.task_id" = "$response.body#/task_id")),
            ))),
        ),
        ReportProblems, LimitedReads,
    )
)]
async fn request_report(
    State(core): State<Arc<Core>>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(Asked { date, user_id }) =
        query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let wrong = || ApiError::bad_request("date must be a minute in UTC, such as 2023-08-29 10:32");
    let from_ms = date.as_deref().and_then(minute).ok_or_else(wrong)?;
    if user_id.is_some_and(|user_id| user_id < 0) {
        return Err(ApiError::bad_request("user_id must not be negative"));
    }
    let allowance = user_id.and_then(|user_id| core.app.limiter.count_user(user_id));
    let answer = async {
        let Office { secret, .. } = read_office(&core).await?;
        let topic = core.app.topic(SegmentEvent::TOPIC);
        let end = core.app.log_ends.of(&topic, PARTITION).await;
        let report = Report {
            from_ms,
            user_id,
            next_offset: end.ok_or_else(ApiError::no_log)?,
            until_ms: clock::now_ms(),
        };
        let task_id = Tasks::new(&secret, &topic).id(&report);
        Ok((StatusCode::ACCEPTED, [NO_STORE], Json(Task { task_id })).into_response())
    };
    Ok(within(allowance, answer).await)
}

/// Milliseconds since 1970-01-01T00:00:00Z.
fn minute(text: &str) -> Option<i64> {
    let is_right = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b' ',
        13 => byte == b':',
        _ => byte.is_ascii_digit(),
    };
    if text.len() != 16 || !text.bytes().enumerate().all(is_right) {
        return None;
    }
    let time: DateTime = format!("{}T{}:00", &text[..10], &text[11..]).parse().ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(time.timestamp().as_millisecond())
}

/// The query of a look at a report.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ByTask {
    /// What `GET /report` gave.
    #[param(required = true)]
    task_id: Option<String>,
}

/// How a report does.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReportProgress)]
struct Progress {
    #[schema(value_type = TaskId)]
    task_id: String,
    status: ReportStatus,
    /// Where it can be taken once it is done; null before.
    #[schema(required = true, examples("/reports/….csv"))]
    file: Option<String>,
}

/// Whether a report is done.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ReportStatus {
    /// The tables are yet to come to its position.
    Pending,
    /// It can be taken.
    Done,
}

/// Look whether a report is done
#[utoipa::path(
    get, path = "/report_check", tag = "segments", params(ByTask),
    responses(
        (
            status = 200, description = "How it does.", body = Progress,
        ),
        NotFound, ReportProblems, LimitedReads,
    )
)]
async fn check_report(
    State(core): State<Arc<Core>>,
    query: Result<Query<ByTask>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ByTask { task_id }) =
        query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let task_id = task_id.ok_or_else(|| ApiError::bad_request("give a task_id"))?;
    let office = read_office(&core).await?;
    let report = find(&core, &office, &task_id)?;
    let is_done = office.next_offset >= report.next_offset;
    let progress = Progress {
        file: is_done.then(|| format!("/reports/{task_id}.csv")),
        status: if is_done {
            ReportStatus::Done
        } else {
            ReportStatus::Pending
        },
        task_id,
    };
    Ok(([NO_STORE], Json(progress)).into_response())
}

/// Take a report
///
/// CSV with semicolons: a header, and a row a change, by time: `user_id;segment;operation;at`. Operations are `added`,
/// `removed`, `expired` and `segment_deleted`. A segment whose name begins with `-` has a `'` before it, so that no
/// spreadsheet takes it for a formula. However often it is taken, it is the same. It is sent as it is read, and its end is
/// marked: a transfer without it was broken off.
#[utoipa::path(
    get, path = "/reports/{file}", tag = "segments",
    params(("file" = String, Path, description = "The task, with `.csv`.")),
    responses(
        (status = 200, description = "The report.", body = String, content_type = "text/csv"),
        NotFound, ReportFileProblems, LimitedReads,
    )
)]
async fn get_report(
    State(core): State<Arc<Core>>,
    file: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let app = &core.app;
    let Path(file) = file.map_err(|_| unknown())?;
    let task_id = file.strip_suffix(".csv").ok_or_else(unknown)?;
    let office = read_office(&core).await?;
    let report = find(&core, &office, task_id)?;
    if office.next_offset < report.next_offset {
        let deadline = Instant::now() + app.limits.wait;
        let place = [(PARTITION, report.next_offset - 1)];
        if !app
            .services
            .watermarks
            .reached(&PROJECTION, &place, deadline)
            .await
        {
            return Err(ApiError::report_not_ready());
        }
    }
    let place = Arc::clone(&app.reports).try_acquire_owned();
    let place = place.map_err(|_| ApiError::too_many_reports())?;
    let opened = report
        .open(&app.services.database)
        .await
        .map_err(|error| match error {
            ReportError::NotYet { .. } | ReportError::Unread => ApiError::report_not_ready(),
            ReportError::Postgres(error) => ApiError::from_sqlx(&error),
        })?;
    let name = format!("attachment; filename=\"{file}\"");
    let name = HeaderValue::try_from(name).expect("the id of a task is plain ASCII");
    let headers = [
        (header::CONTENT_TYPE, CSV),
        (header::CONTENT_DISPOSITION, name),
        NO_STORE,
    ];
    Ok((headers, transfer::body(opened, place)).into_response())
}

async fn read_office(core: &Core) -> Result<Office, ApiError> {
    let read = office(&core.pool).await;
    read.map_err(|error| ApiError::from_sqlx(&error))
}

fn find(core: &Core, office: &Office, task_id: &str) -> Result<Report, ApiError> {
    let topic = core.app.topic(SegmentEvent::TOPIC);
    let report = Tasks::new(&office.secret, &topic).report(task_id);
    report.ok_or_else(unknown)
}

fn unknown() -> ApiError {
    ApiError::not_found("there is no report of this name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_begins_with_a_minute_in_utc() {
        assert_eq!(minute("1970-01-01 00:01"), Some(60_000));
        assert_eq!(minute("2023-08-29 10:32"), Some(1_693_305_120_000));
        for text in [
            "",
            "2023-08-29",
            "2023-08-29T10:32",
            "2023-08-29 10:32:00",
            "2023-02-30 10:32",
            "2023-08-29 24:00",
            "2023-08-29 10:60",
            "2023-8-29 10:32 ",
            "+023-08-29 10:32",
        ] {
            assert_eq!(minute(text), None, "{text}");
        }
    }
}
