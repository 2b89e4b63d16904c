//! How the process does: for supervisors, load balancers and Prometheus.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use crate::{app::Core, metrics};

/// The routes of health and metrics.
pub fn router() -> Router<Arc<Core>> {
    Router::new()
        .route("/livez", get(alive))
        .route("/healthz", get(alive))
        .route("/v1/healthcheck", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
}

/// What `/livez` and `/readyz` say.
#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

async fn alive() -> Json<Health> {
    Json(Health {
        status: "ok",
        reasons: Vec::new(),
    })
}

async fn ready(State(core): State<Arc<Core>>) -> Response {
    let reasons = core.app.services.status.not_ready();
    if reasons.is_empty() {
        return alive().await.into_response();
    }
    let health = Health {
        status: "not_ready",
        reasons,
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(health)).into_response()
}

async fn metrics_text(State(core): State<Arc<Core>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        metrics::text(&core.app.registry),
    )
        .into_response()
}
