//! Clicks: counting them and their statistics. Before this: `projections/src/clicks.rs`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{FromRequestParts, Path, Query, State},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use producers::clock;
use projections::clicks::{PROJECTION, Stats, StatsQuery, Step, stats};
use schemas::{clicks::BannerClicked, event::Event};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{sync::OwnedSemaphorePermit, task::spawn_blocking, time::Instant};
use utoipa::{
    IntoParams, IntoResponses, ToSchema,
    openapi::{
        RefOr, Response as OpenApiResponse,
        path::{Parameter, ParameterIn},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Body, orders::JSON, parse};
use crate::{
    app::Core,
    document::{self, BodyProblems, ReadProblems, WriteProblems},
    error::ApiError,
    positions::{self, MinPositions},
    sending,
};

/// The address that counts a click.
pub const COUNTER: &str = "/v1/banners/counter/{banner_id}";
/// The most steps of one answer: a year of minutes, and more.
const STEPS_MAX: i64 = 600_000;
/// Up to so many minutes, an answer is short: it takes little memory, and no time to speak of to write.
const SHORT_MINUTES: i64 = 2_000;
/// A 204 may be cached unless told otherwise, and a cached click would not be counted.
pub(super) const NO_STORE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// The routes of the clicks.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(count, post_count, not_counted, allowed))
        .routes(routes!(post_stats, get_stats))
}

/// A click that counts.
struct Counted;

impl IntoResponses for Counted {
    fn responses() -> BTreeMap<String, RefOr<OpenApiResponse>> {
        let counted = document::part(json!({
            "description": "The click is on the log. It counts once, in the UTC minute in which it was received.",
            "headers": {
                "Millrace-Position": {
                    "description": "A place on the log that this click does not lie behind.",
                    "schema": {"$ref": "#/components/schemas/Position"},
                },
                "Cache-Control": {"schema": {"type": "string", "enum": ["no-store"]}},
            },
        }));
        [("204".to_owned(), counted)].into()
    }
}

/// Count a click
///
/// Answered once Kafka has the click. A click without a 204 may have been counted.
#[utoipa::path(
    get,
    path = "/v1/banners/counter/{banner_id}",
    tag = "clicks",
    params(BannerId),
    responses(Counted, WriteProblems)
)]
async fn count(
    State(core): State<Arc<Core>>,
    BannerId(banner_id): BannerId,
) -> Result<Response, ApiError> {
    let click = BannerClicked {
        banner_id,
        received_at: clock::now_ms(),
    };
    let position = core.clicks.append(click).await?;
    let mut response = (StatusCode::NO_CONTENT, [NO_STORE]).into_response();
    if let Some(position) = position {
        response.headers_mut().insert(positions::POSITION, position);
    }
    Ok(response)
}

/// Count a click
///
/// The same as `GET`, for clients that do not write with `GET`. What the body has is not read.
#[utoipa::path(
    post,
    path = "/v1/banners/counter/{banner_id}",
    tag = "clicks",
    params(BannerId),
    responses(Counted, WriteProblems)
)]
async fn post_count(core: State<Arc<Core>>, banner_id: BannerId) -> Result<Response, ApiError> {
    count(core, banner_id).await
}

/// Ask whether a banner can be counted
///
/// Counts nothing.
#[utoipa::path(
    head, path = "/v1/banners/counter/{banner_id}", tag = "clicks", params(BannerId),
    responses(
        (status = 204, description = "It can; nothing was counted.", headers(("Cache-Control", description = "`no-store`."))),
        (status = 400, description = "This is not a banner."),
    )
)]
async fn not_counted(_: BannerId) -> Response {
    (StatusCode::NO_CONTENT, [NO_STORE]).into_response()
}

/// Ask what can be done at this address
///
/// Counts nothing.
#[utoipa::path(
    options, path = "/v1/banners/counter/{banner_id}", tag = "clicks",
    params(("banner_id" = String, Path, description = "Anything.")),
    responses((
        status = 204, description = "`Allow` says it.",
        headers(
            ("Allow", description = "The methods, separated by commas."),
            ("Cache-Control", description = "`no-store`."),
        ),
    ))
)]
async fn allowed() -> Response {
    let allow = (
        header::ALLOW,
        HeaderValue::from_static("GET, POST, HEAD, OPTIONS"),
    );
    (StatusCode::NO_CONTENT, [NO_STORE, allow]).into_response()
}

/// The banner of an address, at least 0.
struct BannerId(i64);

impl<S: Send + Sync> FromRequestParts<S> for BannerId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let id = text.ok().and_then(|Path(text)| parse_banner_id(&text));
        id.map(Self).ok_or_else(|| {
            ApiError::bad_request("the banner id must be a whole number of 64 bits, at least 0")
        })
    }
}

impl IntoParams for BannerId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![document::part(json!({
            "name": "banner_id",
            "in": "path",
            "required": true,
            "description": "The banner. Every number is one.",
            "schema": {"type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX},
            "example": 7,
        }))]
    }
}

/// From when until when clicks are asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = StatsRange)]
struct Range {
    /// The first time that counts.
    #[schema(examples("2026-11-21T11:00:00Z"))]
    from: Timestamp,
    /// The first time that counts no more: later than `from`.
    #[schema(examples("2026-11-21T12:00:00Z"))]
    to: Timestamp,
}

/// The query of a question for statistics.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Steps {
    /// The first time that counts (RFC 3339).
    #[param(example = "2026-11-21T11:00:00Z")]
    from: Timestamp,
    /// The first time that counts no more: later than `from`.
    #[param(example = "2026-11-21T12:00:00Z")]
    to: Timestamp,
    /// What the clicks are summed up to, in UTC.
    #[serde(default)]
    #[param(inline)]
    step: StepName,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum StepName {
    #[default]
    Minute,
    Hour,
    Day,
}

/// Clicks by step.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stats)]
struct StatsAnswer {
    /// Ascending; only steps that have clicks.
    stats: Vec<StepAnswer>,
}

impl From<Vec<(i64, i64)>> for StatsAnswer {
    fn from(steps: Vec<(i64, i64)>) -> Self {
        let steps = steps.into_iter().map(|(start, v)| StepAnswer {
            ts: Timestamp::from_second(start)
                .unwrap_or_default()
                .to_string(),
            v,
        });
        Self {
            stats: steps.collect(),
        }
    }
}

/// A step and its clicks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatsStep)]
struct StepAnswer {
    /// When the step begins, in UTC.
    #[schema(format = DateTime, examples("2026-11-21T11:05:00Z"))]
    ts: String,
    /// How many clicks it has.
    #[schema(minimum = 1, examples(42))]
    v: i64,
}

/// Clicks of a banner, a minute each
///
/// A minute counts if it begins at or after `from` and before `to`. A click is counted here within a second.
#[utoipa::path(
    post, path = "/v1/banners/stats/{banner_id}", tag = "clicks", params(BannerId, MinPositions),
    request_body = Range,
    responses((status = 200, description = "The clicks.", body = StatsAnswer), BodyProblems, ReadProblems)
)]
async fn post_stats(
    State(core): State<Arc<Core>>,
    BannerId(banner_id): BannerId,
    min: MinPositions,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let Range { from, to } = parse(&body)?;
    answer(&core, banner_id, from, to, Step::Minute, &min).await
}

/// Clicks of a banner by minute, hour or day
///
/// The same minutes as with `POST`, summed up to steps. At most 600,000 steps.
#[utoipa::path(
    get, path = "/v1/banners/stats/{banner_id}", tag = "clicks", params(BannerId, Steps, MinPositions),
    responses((status = 200, description = "The clicks.", body = StatsAnswer), ReadProblems)
)]
async fn get_stats(
    State(core): State<Arc<Core>>,
    BannerId(banner_id): BannerId,
    min: MinPositions,
    query: Result<Query<Steps>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(Steps { from, to, step }) =
        query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let step = match step {
        StepName::Minute => Step::Minute,
        StepName::Hour => Step::Hour,
        StepName::Day => Step::Day,
    };
    answer(&core, banner_id, from, to, step, &min).await
}

async fn answer(
    core: &Core,
    banner_id: i64,
    from: Timestamp,
    to: Timestamp,
    step: Step,
    min: &MinPositions,
) -> Result<Response, ApiError> {
    if from >= to {
        return Err(ApiError::bad_request("from must be before to"));
    }
    let query = StatsQuery {
        banner_id,
        // No click is older, and Postgres has no years before -4713.
        from_minute: first_minute_from(from).max(0),
        to_minute: first_minute_from(to).max(0),
        step,
        limit: STEPS_MAX + 1,
    };
    // Long answers are made in memory: few at a time.
    let place = match query.to_minute - query.from_minute {
        ..=SHORT_MINUTES => None,
        _ => Some(Arc::clone(&core.app.long_answers).acquire_owned()),
    };
    let place = match place {
        Some(free) => Some(free.await.expect("nobody closes it")),
        None => None,
    };
    let stats = caught_up(core, query, &min.of(&core.app, BannerClicked::TOPIC)).await?;
    if i64::try_from(stats.steps.len()).is_ok_and(|steps| steps > STEPS_MAX) {
        return Err(ApiError::bad_request(format!(
            "more than {STEPS_MAX} steps: ask for a shorter time or a longer step"
        )));
    }
    match place {
        Some(place) => long(stats.steps, place).await,
        None => Ok(Json(StatsAnswer::from(stats.steps)).into_response()),
    }
}

/// A long answer, written on a thread of its own: it takes longer than the others of this thread ought to wait.
async fn long(steps: Vec<(i64, i64)>, place: OwnedSemaphorePermit) -> Result<Response, ApiError> {
    let written = spawn_blocking(|| serde_json::to_vec(&StatsAnswer::from(steps))).await;
    match written {
        Ok(Ok(json)) => Ok(([JSON], sending::Long::body(json, place)).into_response()),
        _ => Err(ApiError::internal()),
    }
}

/// Counts once the projection has come to these places.
async fn caught_up(
    core: &Core,
    query: StatsQuery,
    places: &[(i32, i64)],
) -> Result<Stats, ApiError> {
    let app = &core.app;
    let deadline = Instant::now() + app.limits.wait;
    let watermarks = &app.services.watermarks;
    loop {
        let found = stats(&core.pool, query).await;
        let found = found.map_err(|error| ApiError::from_sqlx(&error))?;
        let is_in = |(partition, offset): &(i32, i64)| {
            let next = found.checkpoints.iter().find(|(p, _)| p == partition);
            next.is_some_and(|(_, next)| next > offset)
        };
        if places.iter().all(is_in) {
            return Ok(found);
        }
        if watermarks.of(&PROJECTION).has_reached(places) {
            // The rows say less than was once announced: Postgres has gone back. What it says now has to be learned.
            watermarks.of(&PROJECTION).forget();
        }
        app.within_log(BannerClicked::TOPIC, places, deadline)
            .await?;
        let reached = watermarks.reached(&PROJECTION, places, deadline).await;
        if !reached || Instant::now() >= deadline {
            return Err(ApiError::not_caught_up());
        }
    }
}

fn parse_banner_id(text: &str) -> Option<i64> {
    let has_only_digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| has_only_digits)
}

/// The first minute that begins at or after a time, counted from 1970-01-01T00:00Z.
fn first_minute_from(time: Timestamp) -> i64 {
    let nanoseconds = time.as_nanosecond();
    let minutes = -((-nanoseconds).div_euclid(60_000_000_000));
    i64::try_from(minutes).expect("a timestamp is within years -9999 to 9999")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_counts_if_it_begins_in_the_range() {
        for (time, minute) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000000001Z", 1),
            ("1970-01-01T00:01:00Z", 1),
            ("1970-01-01T00:01:59.9Z", 2),
            ("1969-12-31T23:59:30Z", 0),
        ] {
            assert_eq!(first_minute_from(time.parse().unwrap()), minute, "{time}");
        }
    }

    #[test]
    fn only_plain_numbers_are_banners() {
        assert_eq!(parse_banner_id("9223372036854775807"), Some(i64::MAX));
        for text in [
            "",
            "-1",
            "+1",
            "1.0",
            "0x1",
            "9223372036854775808",
            "abc",
            "1 ",
        ] {
            assert_eq!(parse_banner_id(text), None, "{text:?}");
        }
    }
}
