//! Orders: placing and finding them. Before this: `projections/src/orders.rs`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use producers::{partition::of_key, writer::Context};
use projections::orders::find as find_row;
use schemas::{
    event::Event,
    json,
    orders::{OrderPlaced, uid_fault},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::JsonBody;
use crate::{
    app::App,
    cache::Wanted,
    error::ApiError,
    positions::{self, MinPositions},
};

const JSON: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
);

/// The routes of the orders.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/order", get(get_order))
        .route("/v1/orders", post(post_order))
}

/// The query of a look-up.
#[derive(Debug, Deserialize)]
struct ByUid {
    uid: Option<String>,
}

async fn get_order(
    State(app): State<Arc<App>>,
    min: MinPositions,
    query: Result<Query<ByUid>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let query = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let Some(uid) = query.0.uid.filter(|uid| !uid.is_empty()) else {
        return Err(ApiError::bad_request("give the order's uid: /order?uid=…"));
    };
    let places = min.of(&app, OrderPlaced::TOPIC);
    match find(&app, &uid, &places).await? {
        Some(body) => Ok(([JSON], body).into_response()),
        None => Err(ApiError::not_found("there is no order of this uid")),
    }
}

/// Places an order: 201 once it is on the log.
async fn post_order(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    JsonBody(value): JsonBody,
) -> Result<Response, ApiError> {
    let order: OrderPlaced = json::read(value).map_err(ApiError::invalid)?;
    // A look at what is there is a courtesy; the fold decides. So the order goes through if Postgres is away.
    if let Ok(Some(known)) = find(&app, &order.order_uid, &[]).await {
        if known != body(&order) {
            return Err(ApiError::order_exists(&order.order_uid));
        }
        return Ok(([JSON], known).into_response());
    }
    let traceparent = headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok());
    let context = Context {
        traceparent: traceparent.map(str::to_owned),
    };
    let position = app.order_writer.append(&order, &context).await?;
    let mut response = (StatusCode::CREATED, [JSON], body(&order)).into_response();
    if let Some(position) = position {
        let headers = response.headers_mut();
        headers.insert(positions::POSITION.clone(), positions::header(&position));
    }
    Ok(response)
}

/// Finds an order as the JSON of its answer, reflecting these places of the topic.
///
/// # Errors
/// 503 if that is not possible in time.
pub async fn find(app: &App, uid: &str, places: &[(i32, i64)]) -> Result<Option<Bytes>, ApiError> {
    if uid_fault(uid).is_some() {
        return Ok(None);
    }
    let partition = of_key(uid.as_bytes(), OrderPlaced::TOPIC.partitions);
    let deadline = Instant::now() + app.limits.wait;
    // An order depends on nothing but its own partition.
    let mut here = places.to_vec();
    here.retain(|(other, _)| *other == partition);
    let tail = app.orders.passed();
    app.passed(tail, OrderPlaced::TOPIC, &here, deadline)
        .await?;
    let wanted = Wanted {
        key: uid,
        partition,
        next_offset: here.iter().map(|(_, offset)| offset + 1).max().unwrap_or(0),
        deadline,
    };
    let read = || async {
        let found = find_row(&app.pool, uid, partition)
            .await
            .map_err(Arc::new)?;
        Ok((found.order.as_ref().map(body), found.next_offset))
    };
    Ok(app.orders.get(wanted, read).await?.value)
}

/// An order as its answer has it.
pub fn body(order: &OrderPlaced) -> Bytes {
    serde_json::to_vec(order)
        .expect("an order has only texts and numbers")
        .into()
}
