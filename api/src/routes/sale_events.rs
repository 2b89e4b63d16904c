//! The running sale for those who watch it, as it changes. Before this: `api/src/sale/live.rs`.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::Core,
    document::SaleEventsProblems,
    error::ApiError,
    sale::{live::look, stands::SaleEventData},
};

/// The last of them is for proxies that would collect what is sent.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/event-stream"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("x-accel-buffering"), "no"),
];

/// The route of the events.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(events))
}

/// The running sale, as it changes
///
/// Server-sent events, as `EventSource` of every browser reads them: one at once, then at most four a second while
/// something changes, and one every second or two all the same: after longer silence the connection is dead. `data` of
/// each is the JSON below. Each says everything: there are no ids, `Last-Event-ID` means nothing, and who is slow
/// misses what was between. While the process is yet to read the sale, there are events of the type `closed`, with
/// nothing but `server_time`. The stream ends when the process is told to stop; come again then.
#[utoipa::path(
    get, path = "/v1/sale/events", tag = "sale",
    responses(
        (
            status = 200, description = "Events without an end; this is the `data` of one.", body = SaleEventData,
            content_type = "text/event-stream",
        ),
        SaleEventsProblems,
    )
)]
async fn events(State(core): State<Arc<Core>>) -> Result<Response, ApiError> {
    let app = &core.app;
    let listener = app.live.listen(|| look(&app.sale));
    let listener = listener.ok_or_else(ApiError::too_many_listen)?;
    Ok((HEADERS, Body::new(listener)).into_response())
}
