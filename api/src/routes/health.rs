//! How the process does: for supervisors, load balancers and Prometheus.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::Core, metrics};

/// The routes of health and metrics.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(alive))
        .routes(routes!(healthz))
        .routes(routes!(healthcheck))
        .routes(routes!(ready))
        .routes(routes!(metrics_text))
}

/// How the process is.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    status: HealthStatus,
    /// What it waits for; only while it is not ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, min_items = 1)]
    reasons: Vec<String>,
}

/// Whether all is well.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum HealthStatus {
    Ok,
    NotReady,
}

/// Whether the process lives
///
/// Answers as long as the process can answer at all: a supervisor restarts it if this fails.
#[utoipa::path(
    get, path = "/livez", tag = "service",
    responses((status = 200, description = "It lives.", body = Health))
)]
async fn alive() -> Json<Health> {
    Json(Health {
        status: HealthStatus::Ok,
        reasons: Vec::new(),
    })
}

/// The same as /livez
#[utoipa::path(
    get, path = "/healthz", tag = "service",
    responses((status = 200, description = "It lives.", body = Health))
)]
async fn healthz() -> Json<Health> {
    alive().await
}

/// The same as /livez, where the clients of the earlier click counter look
#[utoipa::path(
    get, path = "/v1/healthcheck", tag = "service",
    responses((status = 200, description = "It lives.", body = Health))
)]
async fn healthcheck() -> Json<Health> {
    alive().await
}

/// Whether the process can do its work
///
/// A load balancer sends requests to it only while this is 200.
#[utoipa::path(
    get, path = "/readyz", tag = "service",
    responses(
        (status = 200, description = "Every part is at work.", body = Health),
        (status = 503, description = "Some part waits; `reasons` says which, and for what.", body = Health),
    )
)]
async fn ready(State(core): State<Arc<Core>>) -> Response {
    let reasons = core.app.services.status.not_ready();
    if reasons.is_empty() {
        return alive().await.into_response();
    }
    let health = Health {
        status: HealthStatus::NotReady,
        reasons,
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(health)).into_response()
}

/// What is counted and measured, for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((
        status = 200,
        description = "The text format of OpenMetrics 1.0 for who accepts it; otherwise the older one of Prometheus.",
        content((String = "application/openmetrics-text"), (String = "text/plain"))
    ))
)]
async fn metrics_text(State(core): State<Arc<Core>>, headers: HeaderMap) -> Response {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    core.app.look_at_gauges();
    let (content_type, text) = metrics::text(&core.app.registry, accept.unwrap_or_default());
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
