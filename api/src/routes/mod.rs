//! The routes: one file a domain, one line a domain in [`router`].

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{app::App, error::ApiError};

pub mod bench;
pub mod clicks;
pub mod health;
pub mod orders;

/// The largest body that is read, in bytes: a record holds no more.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// The longest that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Every route of the API.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .merge(clicks::router())
        .merge(orders::router())
        .merge(health::router())
        .merge(bench::router(app.limits.bench_routes))
        .fallback(|| async { ApiError::not_found("there is nothing at this address") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::internal().into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(&app), watch))
        .with_state(app)
}

/// Bounds the time of a request and counts its answer.
async fn watch(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request))
        .await
        .unwrap_or_else(|_| ApiError::timeout().into_response());
    let class = match response.status().as_u16() {
        ..400 => "success",
        400..500 => "client_error",
        _ => "server_error",
    };
    app.metrics.answers.get_or_create(&[("class", class)]).inc();
    response
}

/// The bytes of a body, at most [`BODY_BYTES_MAX`].
pub struct Body(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(
                ApiError::too_large(format!("the body has more than {BODY_BYTES_MAX} bytes")),
            ),
            Err(error) => Err(ApiError::bad_request(error.body_text())),
        }
    }
}

/// A body that says it is JSON, or says nothing.
pub struct JsonBody(pub serde_json::Value);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let says_json = |value: &header::HeaderValue| {
            let kind = value.to_str().unwrap_or_default().split(';').next();
            kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        };
        if !content_type.is_none_or(says_json) {
            return Err(ApiError::not_json());
        }
        let Body(bytes) = Body::from_request(request, state).await?;
        parse(&bytes).map(Self)
    }
}

/// Reads JSON.
///
/// # Errors
/// 400 with the place of the fault.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not as expected: {error}")))
}
