//! The page `/`: what Millrace is, how it does, and the way to everything else.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use jiff::Timestamp;
use processors::sales::Stock;

use super::{LINKS, PAGES, answer, format};
use crate::{app::Core, sale::stands::time};

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    /// Why the process is not ready, as `/readyz` says it; none if it is.
    reasons: Vec<String>,
    /// The sale that runs, if it is known.
    running: Option<Stock>,
}

/// Shows the page.
pub async fn show(State(core): State<Arc<Core>>) -> Response {
    let reasons = core.app.services.status.not_ready();
    let running = core.app.live.sight(&core.app.sale);
    let running = running.map(|sight| sight.stock);
    answer(StatusCode::OK, &Home { reasons, running })
}

fn ends_at(stock: &Stock) -> Timestamp {
    time(stock.ends_at_ms)
}

fn items(stock: &Stock) -> u32 {
    stock.rules.items.unsigned_abs()
}
