//! Orders: placing and finding them. Before this: `projections/src/orders.rs`; next:
//! `api/src/pages/orders.rs`.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Query, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use producers::writer::Context;
use projections::{
    orders::{PROJECTION, find as find_row},
    pool::Pool,
    projection::Projection,
};
use schemas::{
    event::Event,
    json,
    orders::{OrderPlaced, json_schema, uid_fault},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::JsonBody;
use crate::{
    app::{App, Core},
    cache::Coherent,
    document::{
        self, BodyProblems, Invalid, NotFound, NotJson, OrderExists, Position, ReadProblems,
        WriteProblems,
    },
    error::ApiError,
    lookup::{Asked, Cached, look_up},
    positions::{self, MinPositions},
    trace::Traced,
};

pub(super) const JSON: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
);

/// The routes of the orders.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(get_order))
        .routes(routes!(post_order))
}

/// An order, as the document describes it: types and rules are those of the event.
struct Order;

impl PartialSchema for Order {
    fn schema() -> RefOr<Schema> {
        let example: Value = serde_json::from_str(include_str!("../../../data/model.json"))
            .expect("the model order is JSON");
        let mut schema = json_schema();
        schema["examples"] = vec![example].into();
        document::part(schema)
    }
}

impl ToSchema for Order {}

/// The query of a look-up.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ByUid {
    /// The order's uid.
    #[param(required = true, min_length = 1, example = "b563feb7b2b84b6test")]
    pub uid: Option<String>,
}

/// Find an order
///
/// The order as it was placed: nothing added, nothing lost.
#[utoipa::path(
    get, path = "/order", tag = "orders", params(ByUid, MinPositions),
    responses((status = 200, description = "The order.", body = Order), NotFound, ReadProblems)
)]
async fn get_order(
    State(core): State<Arc<Core>>,
    min: MinPositions,
    query: Result<Query<ByUid>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let query = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let Some(uid) = query.0.uid.filter(|uid| !uid.is_empty()) else {
        return Err(ApiError::bad_request("give the order's uid: /order?uid=…"));
    };
    let places = min.of(&core.app, OrderPlaced::TOPIC);
    match find(&core.app, &core.pool, &uid, &places, Patience::Answer).await? {
        Some(body) => Ok(([JSON], body).into_response()),
        None => Err(ApiError::not_found("there is no order of this uid")),
    }
}

/// Place an order
///
/// It is on the log when the answer comes. An order that was sent before may be sent again: its uid identifies it, and
/// it is there once. If two different orders of one uid are sent at the same moment, both may be answered with 201; the
/// first on the log stays.
#[utoipa::path(
    post, path = "/v1/orders", tag = "orders",
    params((
        "traceparent" = Option<String>, Header,
        description = "W3C Trace Context; goes to the log with the event.",
    )),
    request_body = Order,
    responses(
        (
            status = 201, description = "It is on the log.", body = Order,
            headers(("Millrace-Position" = Position, description = "Where it stands on the log.")),
            links(("read" = (
                operation_id = "get_order",
                description = "Reads the order that was written.",
                parameters(
                    ("query.uid" = "$response.body#/order_uid"),
                    ("header.Millrace-Min-Position" = "$response.header.Millrace-Position"),
                ),
            ))),
        ),
        (status = 200, description = "It was there before: nothing was written.", body = Order),
        OrderExists, BodyProblems, NotJson, Invalid, WriteProblems,
    )
)]
async fn post_order(
    State(core): State<Arc<Core>>,
    Traced(trace): Traced,
    JsonBody(value): JsonBody,
) -> Result<Response, ApiError> {
    let order: OrderPlaced = json::read(value).map_err(ApiError::invalid)?;
    // A look at what is there is a courtesy; the fold decides. So the order goes through if Postgres is away.
    if let Ok(Some(known)) = find(
        &core.app,
        &core.pool,
        &order.order_uid,
        &[],
        Patience::Courtesy,
    )
    .await
    {
        if known != body(&order) {
            return Err(ApiError::order_exists(&order.order_uid));
        }
        return Ok(([JSON], known).into_response());
    }
    let context = Context { trace: Some(trace) };
    let position = core.app.order_writer.append(&order, &context).await?;
    let mut response = (StatusCode::CREATED, [JSON], body(&order)).into_response();
    if let Some(position) = position {
        let headers = response.headers_mut();
        headers.insert(positions::POSITION, positions::header(&position));
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

/// The orders, as they are cached: the JSON of their answers.
pub struct Orders;

impl Cached for Orders {
    type Event = OrderPlaced;
    const PROJECTION: &'static Projection = &PROJECTION;
    const PART: &'static str = "cache of orders";

    fn cache(app: &App) -> &Coherent<Bytes> {
        &app.orders
    }

    /// The first order of a uid stands.
    fn fold(known: Option<Bytes>, order: &OrderPlaced) -> Option<Bytes> {
        known.or_else(|| Some(body(order)))
    }

    async fn read(pool: &Pool, uid: &str, partition: i32) -> sqlx::Result<(Option<Bytes>, i64)> {
        let found = find_row(pool, uid, partition).await?;
        Ok((found.order.as_ref().map(body), found.next_offset))
    }
}

/// Finds an order as the JSON of its answer, reflecting these places of the topic.
///
/// # Errors
/// 503 if that is not possible in time.
pub async fn find(
    app: &App,
    pool: &Pool,
    uid: &str,
    places: &[(i32, i64)],
    patience: Patience,
) -> Result<Option<Bytes>, ApiError> {
    if uid_fault(uid).is_some() {
        return Ok(None);
    }
    let within = match patience {
        Patience::Answer => app.limits.wait,
        Patience::Courtesy => COURTESY_WAIT,
    };
    let asked = Asked {
        key: uid,
        places,
        deadline: Instant::now() + within,
        query_max: within,
        read_again: patience == Patience::Answer,
    };
    let got = look_up::<Orders>(app, pool, asked).await?;
    Ok(got.value)
}

/// An order as its answer has it.
pub fn body(order: &OrderPlaced) -> Bytes {
    serde_json::to_vec(order)
        .expect("an order has only texts and numbers")
        .into()
}
