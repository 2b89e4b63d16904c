//! How the log and the projections stand. Before this: `api/src/overview.rs`.

use std::sync::Arc;

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::Core, document::LogProblems, error::ApiError, overview::LogStands};

/// The route of the log.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(log_stands))
}

/// How the log and the projections stand
///
/// As this process saw them last, at most some seconds ago while Kafka and Postgres answer.
#[utoipa::path(
    get, path = "/v1/log", tag = "service",
    responses((status = 200, description = "Topics, projections and what is built of them.", body = LogStands), LogProblems)
)]
async fn log_stands(State(core): State<Arc<Core>>) -> Result<Json<LogStands>, ApiError> {
    let seen = core.app.overview.seen().ok_or_else(ApiError::not_looked)?;
    Ok(Json(LogStands::clone(&seen)))
}
