//! Segments and who is in them. Before this: `api/src/segments.rs`; next: `api/src/routes/segment_reports.rs`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use jiff::Timestamp;
use producers::{clock, segments::Stamp, writer::Context};
use projections::{
    pool::Pool,
    projection::Projection,
    segments::{PROJECTION, Verdict, find},
};
use schemas::{
    event::{Event, summary},
    segments::{SLUG_CHARS_MAX, SegmentEvent, ttl_ms},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::Instant;
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        path::{Parameter, ParameterIn},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{JsonBody, clicks::NO_STORE, orders::JSON, sale::Key};
use crate::{
    app::{App, Core},
    cache::Coherent,
    document::{
        self, BodyProblems, KeyReused, Limited, LimitedReads, NotFound, NotJson, Position,
        ReadProblems, SegmentExists, SegmentProblems,
    },
    error::ApiError,
    limiter::within,
    lookup::{Asked, Cached, Touched, look_up},
    positions::{self, MinPositions},
    routes::sale::REPLAYED,
    sale::stands::time,
    segments::{Settled, Unsettled, Way},
    trace,
};

/// The routes of the segments.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(create_segment, delete_segment))
        .routes(routes!(change_segments, get_segments))
}

/// The name of a segment.
struct Slug;

impl PartialSchema for Slug {
    fn schema() -> RefOr<Schema> {
        document::part(json!({
            "type": "string",
            "description": "The name of a segment.",
            "pattern": format!("^[A-Za-z0-9_-]{{1,{SLUG_CHARS_MAX}}}$"),
            "examples": ["AVITO_VOICE_MESSAGES"],
        }))
    }
}

impl ToSchema for Slug {}

/// A segment.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Segment {
    #[schema(value_type = Slug)]
    slug: String,
}

/// Create a segment
///
/// The log decides: of two who create the same segment at the same moment, one is told that it exists.
#[utoipa::path(
    post, path = "/segment", tag = "segments", params(KeyNeeded), request_body = Segment,
    responses(
        (
            status = 201, description = "It is there.", body = Segment,
            headers(
                ("Millrace-Position" = Position, description = "The request's place on the log."),
                ("Idempotency-Replayed" = String, description = "`true` if this is the answer of an earlier request with the same key."),
            ),
        ),
        SegmentExists, BodyProblems, NotJson, KeyReused, SegmentProblems, Limited,
    )
)]
async fn create_segment(
    State(core): State<Arc<Core>>,
    KeyNeeded(key): KeyNeeded,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let Segment { slug } = read(body)?;
    let event = Stamp::now(key).create(slug.clone());
    settle(&core, "create", event, |verdict| match verdict {
        Verdict::Created => Ok((StatusCode::CREATED, Json(Segment { slug })).into_response()),
        _ => Err(ApiError::segment_exists(&slug)),
    })
    .await
}

/// Delete a segment
///
/// Every membership ends with it; a later segment of the same name starts empty.
#[utoipa::path(
    delete, path = "/segment", tag = "segments", params(KeyNeeded), request_body = Segment,
    responses(
        (
            status = 200, description = "It is no more.", body = Segment,
            headers(
                ("Millrace-Position" = Position, description = "The request's place on the log."),
                ("Idempotency-Replayed" = String, description = "`true` if this is the answer of an earlier request with the same key."),
            ),
        ),
        NotFound, BodyProblems, NotJson, KeyReused, SegmentProblems, Limited,
    )
)]
async fn delete_segment(
    State(core): State<Arc<Core>>,
    KeyNeeded(key): KeyNeeded,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let Segment { slug } = read(body)?;
    let event = Stamp::now(key).delete(slug.clone());
    settle(&core, "delete", event, |verdict| match verdict {
        Verdict::Deleted => Ok(Json(Segment { slug }).into_response()),
        _ => Err(ApiError::unknown_segments(&[slug])),
    })
    .await
}

/// Which segments a user is to be in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SegmentsChange)]
struct Change {
    /// The user.
    #[schema(minimum = 0, examples(1))]
    user_id: i64,
    /// Segments to be in; who is in already has the time that is given now.
    #[serde(default)]
    #[schema(value_type = Vec<Slug>, required = false, max_items = 1_000)]
    add: Vec<String>,
    /// Segments not to be in; none that is in `add`.
    #[serde(default)]
    #[schema(value_type = Vec<Slug>, required = false, max_items = 1_000)]
    del: Vec<String>,
    /// For how many days the user is in the segments of `add`; without it, until taken out.
    #[serde(default)]
    #[schema(exclusive_minimum = 0, maximum = 36_500, required = false, examples(5))]
    ttl_days: Option<f64>,
}

/// What really changed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SegmentsChanged)]
struct Changed {
    /// The user.
    #[schema(minimum = 0)]
    user_id: i64,
    /// Segments that the user was not in, and is in now; sorted.
    #[schema(value_type = Vec<Slug>)]
    added: Vec<String>,
    /// Segments that the user was in, and is not in any more; sorted.
    #[schema(value_type = Vec<Slug>)]
    removed: Vec<String>,
}

/// Put a user into segments, and take the user out of others
///
/// All of it or nothing. Who is in a segment already and is added again stays there for the time that is given now: the
/// time alone changes, and `added` does not name the segment. A slug in both lists, or two empty lists, are refused.
#[utoipa::path(
    post, path = "/segment/user", tag = "segments", params(KeyNeeded), request_body = Change,
    responses(
        (
            status = 200, description = "Done.", body = Changed,
            headers(
                ("Millrace-Position" = Position, description = "The request's place on the log."),
                ("Idempotency-Replayed" = String, description = "`true` if this is the answer of an earlier request with the same key."),
            ),
            links(("read" = (
                operation_id = "get_segments",
                description = "Reads what was changed.",
                parameters(
                    ("query.id" = "$response.body#/user_id"),
                    ("header.Millrace-Min-Position" = "$response.header.Millrace-Position"),
                ),
            ))),
        ),
        NotFound, BodyProblems, NotJson, KeyReused, SegmentProblems, Limited,
    )
)]
async fn change_segments(
    State(core): State<Arc<Core>>,
    KeyNeeded(key): KeyNeeded,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let change: Change = read(body)?;
    let user_id = change.user_id;
    let event = change.into_event(key)?;
    let answer = settle(&core, "change", event, |verdict| match verdict {
        Verdict::Changed { added, removed } => Ok(Json(Changed {
            user_id,
            added,
            removed,
        })
        .into_response()),
        Verdict::Unknown(slugs) => Err(ApiError::unknown_segments(&slugs)),
        _ => Err(ApiError::internal()),
    });
    Ok(within(core.app.limiter.count_user(user_id), answer).await)
}

impl Change {
    fn into_event(mut self, key: String) -> Result<SegmentEvent, ApiError> {
        // A list is a set.
        for list in [&mut self.add, &mut self.del] {
            list.sort_unstable();
            list.dedup();
        }
        let wrong =
            || ApiError::bad_request("ttl_days must be a number larger than 0, and 36500 at most");
        let ttl_ms = match self.ttl_days {
            Some(days) => Some(ttl_ms(days).ok_or_else(wrong)?),
            None => None,
        };
        Ok(Stamp::now(key).change(self.user_id, self.add, self.del, ttl_ms))
    }
}

/// Reads the JSON of a request.
fn read<T: DeserializeOwned>(body: serde_json::Value) -> Result<T, ApiError> {
    serde_json::from_value(body)
        .map_err(|error| ApiError::bad_request(format!("the body is not as expected: {error}")))
}

/// Lets the log decide, and answers.
async fn settle(
    core: &Core,
    request: &'static str,
    event: SegmentEvent,
    answer: impl FnOnce(Verdict) -> Result<Response, ApiError>,
) -> Result<Response, ApiError> {
    let faults = event.faults();
    if !faults.is_empty() {
        return Err(ApiError::bad_request(summary(&faults)));
    }
    let began = Instant::now();
    let app = &core.app;
    let metrics = &app.metrics.segments;
    if !app.services.status.is_running(crate::observer::DATABASE) {
        return Err(Unsettled::NoDatabase.into());
    }
    let way = Way {
        queue: &core.segment_queue,
        watermarks: &app.services.watermarks,
        reader: &core.verdicts,
    };
    let context = Context {
        trace: Some(trace::current()),
    };
    let settled = app.segments.settle(way, event, context).await;
    match &settled {
        Err(Unsettled::Unknown) => metrics.count(request, "outcome_unknown"),
        Err(Unsettled::Void) => metrics.count(request, "void"),
        Err(Unsettled::KeyReused) => metrics.count(request, "key_reused"),
        Err(_) => {}
        Ok(settled) => {
            metrics.count(request, settled.verdict.name());
            metrics
                .settle_seconds
                .observe(began.elapsed().as_secs_f64());
        }
    }
    let Settled {
        verdict,
        is_replayed,
        position,
    } = settled?;
    let mut response = answer(verdict).into_response();
    let headers = response.headers_mut();
    headers.insert(positions::POSITION, positions::header(&position));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if is_replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The query of a look-up.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ById {
    /// The user.
    #[param(minimum = 0, example = 1)]
    id: i64,
}

/// The segments of a user.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SegmentsOfUser)]
struct Memberships {
    /// The user.
    #[schema(minimum = 0)]
    user_id: i64,
    /// Sorted by their names.
    segments: Vec<Membership>,
}

/// A segment that a user is in.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Membership {
    #[schema(value_type = Slug)]
    slug: String,
    /// The first moment at which the user is not in any more; null: until taken out.
    #[schema(value_type = Option<String>, required = true, format = DateTime, examples("2026-11-21T09:00:00Z"))]
    expires_at: Option<Timestamp>,
}

/// The segments of a user
///
/// A membership is gone at its very end. Of a user whom nobody has put into a segment there are none.
#[utoipa::path(
    get, path = "/segment/user", tag = "segments", params(ById, MinPositions),
    responses(
        (status = 200, description = "The segments.", body = Memberships),
        ReadProblems, LimitedReads,
    )
)]
async fn get_segments(
    State(core): State<Arc<Core>>,
    min: MinPositions,
    query: Result<Query<ById>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ById { id }) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    if id < 0 {
        return Err(ApiError::bad_request("id must not be negative"));
    }
    let places = min.of(&core.app, SegmentEvent::TOPIC);
    let answer = async {
        let body = find_segments(&core, id, &places).await?;
        Ok(([JSON, NO_STORE], body).into_response())
    };
    Ok(within(core.app.limiter.count_user(id), answer).await)
}

/// The segments of users, as they are cached: a `Kept` by the user's id.
pub struct SegmentsOfUsers;

impl Cached for SegmentsOfUsers {
    type Event = SegmentEvent;
    const PROJECTION: &'static Projection = &PROJECTION;
    const PART: &'static str = "cache of segments";

    fn cache(app: &App) -> &Coherent<Bytes> {
        &app.segments_of_users
    }

    /// Whether a request is granted, only the projection tells.
    fn touched(event: &SegmentEvent) -> Touched {
        match event {
            SegmentEvent::MembershipChangeRequested(change) => {
                Touched::One(change.user_id.to_string())
            }
            SegmentEvent::SegmentDeleteRequested(_) => Touched::All,
            SegmentEvent::SegmentCreateRequested(_) => Touched::Nothing,
        }
    }

    fn note(app: &App, event: &SegmentEvent, at_ms: i64) {
        app.segments.note(event, at_ms);
    }

    async fn read(pool: &Pool, user_id: &str, _: i32) -> sqlx::Result<(Option<Bytes>, i64)> {
        let user_id = user_id.parse().map_err(|_| sqlx::Error::RowNotFound)?;
        let found = find(pool, user_id).await?;
        let now_ms = clock::now_ms().max(found.last_ms);
        let segments = found.segments.into_iter().map(|(slug, ends)| Membership {
            slug,
            expires_at: ends.map(time),
        });
        let memberships = Memberships {
            user_id,
            segments: segments.collect(),
        };
        let kept = Kept::of(memberships, now_ms);
        Ok((Some(kept.0), found.next_offset))
    }
}

/// The answer at a time: eight bytes that say when the first membership is over (milliseconds since
/// 1970-01-01T00:00:00Z), and its JSON.
struct Kept(Bytes);

/// How long the time takes.
const TIME_BYTES: usize = size_of::<i64>();

impl Kept {
    fn of(mut memberships: Memberships, now_ms: i64) -> Self {
        let over_at_ms = |membership: &Membership| {
            let expires_at = membership.expires_at.map(Timestamp::as_millisecond);
            expires_at.unwrap_or(i64::MAX)
        };
        memberships
            .segments
            .retain(|membership| now_ms < over_at_ms(membership));
        let earliest_ms = memberships.segments.iter().map(over_at_ms).min();
        let mut bytes = earliest_ms.unwrap_or(i64::MAX).to_be_bytes().to_vec();
        serde_json::to_writer(&mut bytes, &memberships).expect("it has only texts and numbers");
        Self(bytes.into())
    }

    /// The JSON, if it still holds.
    fn body(&self, now_ms: i64) -> Option<Bytes> {
        let (earliest_ms, _) = self.0.split_first_chunk()?;
        (now_ms < i64::from_be_bytes(*earliest_ms)).then(|| self.0.slice(TIME_BYTES..))
    }

    /// The same without what is over by now.
    fn renewed(&self, now_ms: i64) -> Self {
        let memberships = serde_json::from_slice(&self.0[TIME_BYTES..]);
        Self::of(memberships.expect("it was written here"), now_ms)
    }
}

/// Finds the segments that a user is in now, as JSON, reflecting these places of the topic.
async fn find_segments(
    core: &Core,
    user_id: i64,
    places: &[(i32, i64)],
) -> Result<Bytes, ApiError> {
    let app = &core.app;
    let key = user_id.to_string();
    let asked = Asked {
        key: &key,
        places,
        deadline: Instant::now() + app.limits.wait,
        query_max: app.limits.wait,
        read_again: true,
    };
    let got = look_up::<SegmentsOfUsers>(app, &core.pool, asked).await?;
    let kept = Kept(got.value.ok_or_else(ApiError::internal)?);
    let now_ms = app.segments.time(clock::now_ms());
    if let Some(body) = kept.body(now_ms) {
        return Ok(body);
    }
    app.segments_of_users.forget(&key);
    Ok(kept.renewed(now_ms).0.slice(TIME_BYTES..))
}

/// The key by which a request is known when it comes again; whoever changes segments has to give one.
struct KeyNeeded(String);

impl<S: Send + Sync> FromRequestParts<S> for KeyNeeded {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Key(key) = Key::from_request_parts(parts, state).await?;
        let missing = || ApiError::bad_request("give an Idempotency-Key");
        key.map(Self).ok_or_else(missing)
    }
}

impl IntoParams for KeyNeeded {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![document::part(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": true,
            "description": "A request that comes again with the same key is answered as it was the first time, for 24 \
                hours; another request with the same key is refused, whoever sends it.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        }))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_until_the_first_membership_is_over() {
        let membership = |slug: &str, ends: Option<i64>| Membership {
            slug: slug.to_owned(),
            expires_at: ends.map(time),
        };
        let segments = vec![
            membership("A", Some(2_000)),
            membership("B", None),
            membership("C", Some(3_000)),
            membership("D", Some(1_000)),
        ];
        let kept = Kept::of(
            Memberships {
                user_id: 7,
                segments,
            },
            1_000,
        );
        let slugs = |kept: &Kept, now_ms| {
            let body = kept.body(now_ms)?;
            let found: Memberships = serde_json::from_slice(&body).unwrap();
            Some(
                found
                    .segments
                    .into_iter()
                    .map(|m| m.slug)
                    .collect::<Vec<_>>()
                    .join(","),
            )
        };
        assert_eq!(slugs(&kept, 1_999).as_deref(), Some("A,B,C"));
        assert_eq!(slugs(&kept, 2_000), None);
        let renewed = kept.renewed(2_000);
        assert_eq!(slugs(&renewed, 2_999).as_deref(), Some("B,C"));
        let last = renewed.renewed(9_000);
        assert_eq!(slugs(&last, i64::MAX - 1).as_deref(), Some("B"));
    }
}
