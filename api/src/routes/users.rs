//! Users: their profiles, from memory as a rule. Before this: `projections/src/users.rs`. The shapes of `GET /v1/users`
//! are those of an earlier service, whose clients know them.

use std::{io::Write as _, sync::Arc};

use axum::{
    extract::{FromRequestParts, Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, IntoResponseParts, Response},
};
use bytes::Bytes;
use jiff::Timestamp;
use producers::{clock, writer::Context};
use projections::{
    pool::Pool,
    projection::Projection,
    users::{Found, PROJECTION, find},
};
use schemas::{
    event::Event,
    position::Position as Place,
    users::{Profile, UserEvent, UserProfileSet, UserRemoved, id_fault, too_long},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};
use utoipa_axum::{router::OpenApiRouter, routes};

mod answers;

use self::answers::{Answers, User, UserProfile};
use super::{JsonBody, clicks::NO_STORE, orders::JSON};
use crate::{
    app::{App, Core},
    cache::Coherent,
    document::{self, BodyProblems, Invalid, NotJson, Position, WriteProblems},
    error::{ApiError, Reason},
    lookup::{Asked, Cached, LookUpError, ValueAt, look_up_by},
    positions::{self, MinPositions},
    reading::Rows,
    trace::Traced,
};

const ID_PATTERN: &str = "^[A-Za-z0-9_-]{1,20}$";
/// What an answer takes beside the profile, in bytes.
const SHELL_BYTES: usize = 128;

/// The routes of the users.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(get_user))
        .routes(routes!(put_user, delete_user))
}

/// The users, as they are cached: see `members`.
pub struct Users;

impl Cached for Users {
    type Event = UserEvent;
    const PROJECTION: &'static Projection = &PROJECTION;
    const PART: &'static str = "cache of users";

    fn cache(app: &App) -> &Coherent<Bytes> {
        &app.users
    }

    /// What was said last of a user stands.
    fn fold(_: Option<Bytes>, event: &UserEvent) -> Option<Bytes> {
        match event {
            UserEvent::UserProfileSet(set) => Some(members(set)),
            UserEvent::UserRemoved(_) => None,
        }
    }

    async fn read(pool: &Pool, user_id: &str, partition: i32) -> sqlx::Result<ValueAt> {
        let mut found = UsersById::read(pool, &[(user_id.to_owned(), partition)]).await?;
        Ok(found.remove(0))
    }
}

/// Users, by id and partition.
pub struct UsersById;

impl Rows for UsersById {
    type Key = (String, i32);
    type Row = ValueAt;

    async fn read(pool: &Pool, users: &[(String, i32)]) -> sqlx::Result<Vec<ValueAt>> {
        let found = find(pool, users).await?.into_iter();
        let value = |(found, (user_id, _)): (Found, &(String, i32))| {
            let set = found
                .profile
                .map(|profile| profile.set_for(user_id.clone()));
            (set.as_ref().map(members), found.next_offset)
        };
        Ok(found.zip(users).map(value).collect())
    }
}

/// The profile as part of a JSON object: its members, without the braces.
fn members(set: &UserProfileSet) -> Bytes {
    let object = Bytes::from(profile(set));
    object.slice(1..object.len() - 1)
}

/// The profile as JSON.
fn profile(set: &UserProfileSet) -> Vec<u8> {
    serde_json::to_vec(set).expect("a profile has only texts")
}

/// The query of a look-up.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ByUserId {
    /// The user.
    #[param(pattern = "^[A-Za-z0-9_-]{1,20}$", example = "ann")]
    user_id: String,
}

/// Find a user
///
/// From memory if it can be (`ok:cache`), else from Postgres (`ok:postgres`): an answer from memory is no older.
#[utoipa::path(
    get,
    path = "/v1/users",
    tag = "users",
    params(ByUserId, MinPositions),
    responses(Answers)
)]
async fn get_user(
    State(core): State<Arc<Core>>,
    min: MinPositions,
    query: Result<Query<ByUserId>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Some(user_id) = query.ok().map(|query| query.0.user_id) else {
        return Ok(bad_id());
    };
    if id_fault(&user_id).is_some() {
        return Ok(bad_id());
    }
    let places = min.of(&core.app, UserEvent::TOPIC);
    let limits = &core.app.limits;
    let within = if places.is_empty() {
        limits.query
    } else {
        limits.wait
    };
    let asked = Asked {
        key: &user_id,
        places: &places,
        deadline: Instant::now() + within,
        query_max: limits.query,
        read_again: true,
    };
    let read = |partition| core.users.read((user_id.clone(), partition));
    match look_up_by::<Users, _>(&core.app, asked, read).await {
        Ok(got) => Ok(match got.value {
            Some(members) => found(&members, got.hit),
            None => refused(StatusCode::NOT_FOUND, "not found", Reason::NotFound),
        }),
        Err(LookUpError::Position(error)) => Err(error),
        Err(LookUpError::Unread(error)) => {
            let (reason, cause) = ApiError::from(error).why();
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let mut response = refused(status, "internal error", reason);
            if let Some(cause) = cause {
                response.extensions_mut().insert(cause);
            }
            Ok(response)
        }
    }
}

fn found(members: &[u8], hit: bool) -> Response {
    ([JSON, NO_STORE], body(members, hit, clock::now_ms())).into_response()
}

/// The body of the answer with these members of a profile.
pub(super) fn body(members: &[u8], hit: bool, now_ms: i64) -> Bytes {
    let message = if hit { "ok:cache" } else { "ok:postgres" };
    let mut body = Vec::with_capacity(SHELL_BYTES + members.len());
    body.extend_from_slice(br#"{"code":200,"message":""#);
    body.extend_from_slice(message.as_bytes());
    body.extend_from_slice(br#"","#);
    body.extend_from_slice(members);
    close(&mut body, hit, now_ms);
    body.into()
}

fn bad_id() -> Response {
    let status = StatusCode::BAD_REQUEST;
    refused(status, "invalid user_id", Reason::BadRequest)
}

/// An answer without a profile; the reason is for whoever counts them.
fn refused(status: StatusCode, message: &str, reason: Reason) -> Response {
    let mut body = Vec::with_capacity(SHELL_BYTES);
    let code = status.as_u16();
    body.extend_from_slice(format!(r#"{{"code":{code},"message":"{message}""#).as_bytes());
    close(&mut body, false, clock::now_ms());
    let mut response = (status, [JSON, NO_STORE], body).into_response();
    response.extensions_mut().insert(reason);
    response
}

/// What every answer ends with.
fn close(body: &mut Vec<u8>, hit: bool, now_ms: i64) {
    let now = Timestamp::from_millisecond(now_ms).unwrap_or_default();
    write!(
        body,
        r#","cache_hit":{hit},"metadata":{{"timestamp":"{:.0}","version":"v1"}}}}"#,
        Timestamp::from_second(now.as_second()).unwrap_or_default()
    )
    .expect("there is room for a few bytes");
}

/// Set the profile of a user
///
/// It is on the log when the answer comes. Setting it again is safe: what was set last stands.
#[utoipa::path(
    put, path = "/v1/users/{user_id}", tag = "users", params(UserId), request_body = UserProfile,
    responses(
        (
            status = 200, description = "The profile is on the log.", body = User,
            headers(("Millrace-Position" = Position, description = "Where it stands on the log.")),
            links(("read" = (
                operation_id = "get_user",
                description = "Reads the profile that was set.",
                parameters(
                    ("query.user_id" = "$response.body#/user_id"),
                    ("header.Millrace-Min-Position" = "$response.header.Millrace-Position"),
                ),
            ))),
        ),
        BodyProblems, NotJson, Invalid, WriteProblems,
    )
)]
async fn put_user(
    State(core): State<Arc<Core>>,
    Traced(trace): Traced,
    UserId(user_id): UserId,
    JsonBody(value): JsonBody,
) -> Result<Response, ApiError> {
    let read = Profile::read(value).map_err(ApiError::invalid)?;
    if !read.fits() {
        return Err(ApiError::too_large(too_long()));
    }
    let set = read.set_for(user_id);
    let body = profile(&set);
    let context = Context { trace: Some(trace) };
    let event = UserEvent::UserProfileSet(set);
    let position = core.app.user_writer.append(&event, &context).await?;
    Ok(written([JSON, NO_STORE], body, position))
}

/// Remove the profile of a user
///
/// Also of one who has none.
#[utoipa::path(
    delete, path = "/v1/users/{user_id}", tag = "users", params(UserId),
    responses(
        (
            status = 204, description = "The user has no profile once the log is read up to here.",
            headers(
                ("Millrace-Position" = Position, description = "Where it stands on the log."),
                ("Cache-Control", description = "`no-store`."),
            ),
        ),
        WriteProblems,
    )
)]
async fn delete_user(
    State(core): State<Arc<Core>>,
    Traced(trace): Traced,
    UserId(user_id): UserId,
) -> Result<Response, ApiError> {
    let context = Context { trace: Some(trace) };
    let event = UserEvent::UserRemoved(UserRemoved { user_id });
    let position = core.app.user_writer.append(&event, &context).await?;
    Ok(written([NO_STORE], StatusCode::NO_CONTENT, position))
}

/// An answer that says where the write stands, if the broker has told.
fn written(
    headers: impl IntoResponseParts,
    body: impl IntoResponse,
    position: Option<Place>,
) -> Response {
    let mut response = (headers, body).into_response();
    if let Some(position) = position {
        let headers = response.headers_mut();
        headers.insert(positions::POSITION, positions::header(&position));
    }
    response
}

/// The user of an address.
struct UserId(String);

impl<S: Send + Sync> FromRequestParts<S> for UserId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let id = text.ok().filter(|Path(text)| id_fault(text).is_none());
        id.map(|Path(text)| Self(text)).ok_or_else(|| {
            ApiError::bad_request("user_id must be 1 to 20 of A-Z, a-z, 0-9, _ and -")
        })
    }
}

impl IntoParams for UserId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![document::part(json!({
            "name": "user_id",
            "in": "path",
            "required": true,
            "description": "The user.",
            "schema": {"type": "string", "pattern": ID_PATTERN},
            "example": "ann",
        }))]
    }
}
