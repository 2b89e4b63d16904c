//! Orders: placing and finding them. Before this: `projections/src/orders.rs`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use producers::{partition::of_key, writer::Context};
use projections::orders::{PROJECTION, find as find_row};
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
    cache::{GetError, Wanted},
    error::ApiError,
    positions::{self, MinPositions},
};

pub(super) const JSON: (HeaderName, HeaderValue) = (
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
    match find(&app, &uid, &places, Patience::Answer).await? {
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
    if let Ok(Some(known)) = find(&app, &order.order_uid, &[], Patience::Courtesy).await {
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

/// How much a look at an order is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Somebody asked for it.
    Answer,
    /// It saves somebody a round; it goes without.
    Courtesy,
}

/// How long a courtesy may take.
const COURTESY_WAIT: Duration = Duration::from_millis(100);

impl App {
    /// Waits until the cache of the orders reflects these places of a partition. Without a tail nothing is cached, and
    /// the projection has to reflect them.
    async fn await_order_tail(
        &self,
        partition: i32,
        places: &[(i32, i64)],
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let has_tail = self.orders.resume(partition).is_some();
        if has_tail || places.is_empty() {
            let tail = self.orders.passed();
            return self
                .passed(tail, OrderPlaced::TOPIC, places, deadline)
                .await;
        }
        self.within_log(OrderPlaced::TOPIC, places, deadline)
            .await?;
        if self
            .services
            .watermarks
            .reached(&PROJECTION, places, deadline)
            .await
        {
            return Ok(());
        }
        Err(ApiError::not_caught_up())
    }
}

/// Finds an order as the JSON of its answer, reflecting these places of the topic.
///
/// # Errors
/// 503 if that is not possible in time.
pub async fn find(
    app: &App,
    uid: &str,
    places: &[(i32, i64)],
    patience: Patience,
) -> Result<Option<Bytes>, ApiError> {
    if uid_fault(uid).is_some() {
        return Ok(None);
    }
    let partition = of_key(uid.as_bytes(), OrderPlaced::TOPIC.partitions);
    let deadline = Instant::now()
        + match patience {
            Patience::Answer => app.limits.wait,
            Patience::Courtesy => COURTESY_WAIT,
        };
    // An order depends on nothing but its own partition.
    let mut here = places.to_vec();
    here.retain(|(other, _)| *other == partition);
    app.await_order_tail(partition, &here, deadline).await?;
    let wanted = Wanted {
        key: uid,
        partition,
        next_offset: here.iter().map(|(_, offset)| offset + 1).max().unwrap_or(0),
        deadline,
        read_again: patience == Patience::Answer,
    };
    let read = || async {
        let found = find_row(&app.pool, uid, partition)
            .await
            .map_err(Arc::new)?;
        Ok((found.order.as_ref().map(body), found.next_offset))
    };
    match app.orders.get(wanted, read).await {
        Ok(got) => Ok(got.value),
        Err(GetError::Late) if !here.is_empty() => Err(ApiError::not_caught_up()),
        Err(error) => Err(error.into()),
    }
}

/// An order as its answer has it.
pub fn body(order: &OrderPlaced) -> Bytes {
    serde_json::to_vec(order)
        .expect("an order has only texts and numbers")
        .into()
}
