//! The routes: one file a domain, one line a domain in [`router`].

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{StatusCode, header},
    middleware::from_fn_with_state,
};
use serde::de::DeserializeOwned;
use utoipa::{OpenApi as _, openapi::OpenApi};
use utoipa_axum::router::OpenApiRouter;

use crate::{app::Core, document, error::ApiError, limiter, pages, swagger, trace::Follow};

pub mod bench;
pub mod clicks;
pub mod health;
pub mod log;
pub mod orders;
pub mod sale;
pub mod sale_events;
pub mod sale_images;
pub mod sales_history;
pub mod segment_reports;
pub mod segments;
pub mod users;

/// The largest body that is read, in bytes: a record holds no more.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Every route of the API, with what the document says of it.
fn described() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::with_openapi(document::Head::openapi())
        .merge(clicks::router())
        .merge(orders::router())
        .merge(users::router())
        .merge(sale::router())
        .merge(sale_events::router())
        .merge(sales_history::router())
        .merge(sale_images::router())
        .merge(log::router())
        .merge(health::router())
        .merge(document::router())
}

/// Routes whose callers are counted by their addresses.
fn guarded() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .merge(segments::router())
        .merge(segment_reports::router())
}

/// The OpenAPI document of these routes.
pub fn document() -> OpenApi {
    let mut document = described().merge(guarded()).into_openapi();
    let components = document.components.get_or_insert_default();
    components.responses.extend(document::outside());
    document
}

/// Every route of the process.
pub fn router(core: Arc<Core>) -> Router {
    let (router, _) = described().split_for_parts();
    let (guarded, _) = guarded().split_for_parts();
    let guard = from_fn_with_state(Arc::clone(&core), limiter::guard);
    router
        .merge(guarded.route_layer(guard))
        .merge(pages::router())
        .merge(swagger::router())
        .merge(bench::router(core.app.limits.bench_routes))
        .fallback(|| async { ApiError::not_found("there is nothing at this address") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        // One layer: axum boxes each of them for every request.
        .layer((
            Follow::new(Arc::clone(&core)),
            DefaultBodyLimit::max(BODY_BYTES_MAX),
        ))
        .with_state(core)
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

/// A body that says it is JSON. One that says nothing is refused: a page of anybody may send it from a browser unasked.
pub struct JsonBody(pub serde_json::Value);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let says_json = |value: &header::HeaderValue| {
            let kind = value.to_str().unwrap_or_default().split(';').next();
            kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        };
        if !content_type.is_some_and(says_json) {
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
