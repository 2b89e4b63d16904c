//! The page `/`: what Millrace is, how it does, and the way to everything else.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};

use super::{LINKS, PAGES, answer};
use crate::app::Core;

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    /// Why the process is not ready, as `/readyz` says it; none if it is.
    reasons: Vec<String>,
}

/// Shows the page.
pub async fn show(State(core): State<Arc<Core>>) -> Response {
    let reasons = core.app.services.status.not_ready();
    answer(StatusCode::OK, &Home { reasons })
}
