//! Clicks: counting them and their statistics. Before this: `projections/src/clicks.rs`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRequestParts, Path, Query, State},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jiff::Timestamp;
use producers::clock;
use projections::clicks::{PROJECTION, Stats, StatsQuery, Step, stats};
use schemas::{clicks::BannerClicked, event::Event};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Body, parse};
use crate::{
    app::App,
    error::ApiError,
    positions::{self, MinPositions},
};

/// The most steps of one answer: a year of minutes, and more.
const STEPS_MAX: i64 = 600_000;
/// Up to so many minutes, an answer is short.
const SHORT_MINUTES: i64 = 10_000;
/// A 204 may be cached unless told otherwise, and a cached click would not be counted.
pub(super) const NO_STORE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// The routes of the clicks.
pub fn router() -> Router<Arc<App>> {
    let count = get(count)
        .post(self::count)
        .head(not_counted)
        .options(allowed);
    Router::new()
        .route("/v1/banners/counter/{banner_id}", count)
        .route(
            "/v1/banners/stats/{banner_id}",
            post(post_stats).get(get_stats),
        )
}

/// Counts a click: 204 once it is on the log.
async fn count(
    State(app): State<Arc<App>>,
    BannerId(banner_id): BannerId,
) -> Result<Response, ApiError> {
    let click = BannerClicked {
        banner_id,
        received_at: clock::now_ms(),
    };
    let position = app.clicks.append(click).await?;
    let mut response = (StatusCode::NO_CONTENT, [NO_STORE]).into_response();
    if let Some(position) = position {
        let headers = response.headers_mut();
        headers.insert(positions::POSITION.clone(), positions::header(&position));
    }
    Ok(response)
}

/// `HEAD` asks whether the address is good, and counts nothing.
async fn not_counted(_: BannerId) -> Response {
    (StatusCode::NO_CONTENT, [NO_STORE]).into_response()
}

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

/// The body of a question for statistics.
#[derive(Debug, Deserialize)]
struct Range {
    from: Timestamp,
    to: Timestamp,
}

/// The query of a question for statistics.
#[derive(Debug, Deserialize)]
struct Steps {
    from: Timestamp,
    to: Timestamp,
    #[serde(default)]
    step: StepName,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StepName {
    #[default]
    Minute,
    Hour,
    Day,
}

/// Clicks by step, ascending.
#[derive(Debug, Serialize)]
struct StatsAnswer {
    stats: Vec<StepAnswer>,
}

/// A step and its clicks.
#[derive(Debug, Serialize)]
struct StepAnswer {
    ts: String,
    v: i64,
}

async fn post_stats(
    State(app): State<Arc<App>>,
    BannerId(banner_id): BannerId,
    min: MinPositions,
    Body(body): Body,
) -> Result<Json<StatsAnswer>, ApiError> {
    let Range { from, to } = parse(&body)?;
    answer(&app, banner_id, from, to, Step::Minute, &min).await
}

async fn get_stats(
    State(app): State<Arc<App>>,
    BannerId(banner_id): BannerId,
    min: MinPositions,
    query: Result<Query<Steps>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<StatsAnswer>, ApiError> {
    let Query(Steps { from, to, step }) =
        query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let step = match step {
        StepName::Minute => Step::Minute,
        StepName::Hour => Step::Hour,
        StepName::Day => Step::Day,
    };
    answer(&app, banner_id, from, to, step, &min).await
}

async fn answer(
    app: &App,
    banner_id: i64,
    from: Timestamp,
    to: Timestamp,
    step: Step,
    min: &MinPositions,
) -> Result<Json<StatsAnswer>, ApiError> {
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
    let _permit = match query.to_minute - query.from_minute {
        ..=SHORT_MINUTES => None,
        _ => app.long_answers.acquire().await.ok(),
    };
    let stats = caught_up(app, query, &min.of(app, BannerClicked::TOPIC)).await?;
    if i64::try_from(stats.steps.len()).is_ok_and(|steps| steps > STEPS_MAX) {
        return Err(ApiError::bad_request(format!(
            "more than {STEPS_MAX} steps: ask for a shorter time or a longer step"
        )));
    }
    let steps = stats.steps.into_iter().map(|(start, v)| StepAnswer {
        ts: Timestamp::from_second(start)
            .unwrap_or_default()
            .to_string(),
        v,
    });
    Ok(Json(StatsAnswer {
        stats: steps.collect(),
    }))
}

/// Counts once the projection has come to these places.
async fn caught_up(app: &App, query: StatsQuery, places: &[(i32, i64)]) -> Result<Stats, ApiError> {
    let deadline = Instant::now() + app.limits.wait;
    let watermarks = &app.services.watermarks;
    loop {
        let found = stats(&app.pool, query).await;
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
