//! The page `/orders`: an order as its buyer would read it. Before this: `api/src/routes/orders.rs`, whose look-up it
//! is; next: `orders.html` beside it.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
};
use bytes::Bytes;
use jiff::Timestamp;
use schemas::{
    event::Event,
    orders::{Item, OrderPlaced, uid_fault},
};

use super::{PAGES, answer, format};
use crate::{
    app::Core,
    error::ApiError,
    positions::MinPositions,
    routes::orders::{ByUid, Patience, find},
};

#[derive(Template)]
#[template(path = "orders.html")]
struct OrdersPage {
    /// What was asked for; empty if nothing was.
    uid: String,
    outcome: Outcome,
}

/// What came of a look-up.
enum Outcome {
    /// Nothing was asked yet.
    NotAsked,
    /// Asked, without a uid.
    Empty,
    /// No order can have this uid; it must be otherwise: how.
    Impossible(&'static str),
    /// There is no order of this uid.
    Unknown,
    /// It cannot be said now.
    Unavailable(StatusCode),
    /// Here it is.
    Found(Box<OrderPlaced>),
}

/// Shows the page, with an order if one is asked for.
pub async fn show(
    State(core): State<Arc<Core>>,
    min: MinPositions,
    query: Result<Query<ByUid>, QueryRejection>,
) -> Response {
    let (uid, outcome) = match query {
        Ok(Query(ByUid { uid: Some(uid) })) => {
            let outcome = look_up(&core, &uid, &min).await;
            (uid, outcome)
        }
        Ok(Query(ByUid { uid: None })) => (String::new(), Outcome::NotAsked),
        Err(_) => (
            String::new(),
            Outcome::Impossible("must be given once, as UTF-8 text"),
        ),
    };
    answer(outcome.status(), &OrdersPage { uid, outcome })
}

async fn look_up(core: &Core, uid: &str, min: &MinPositions) -> Outcome {
    if uid.trim().is_empty() {
        return Outcome::Empty;
    }
    if let Some(fault) = uid_fault(uid) {
        return Outcome::Impossible(fault);
    }
    let places = min.of(&core.app, OrderPlaced::TOPIC);
    let find = |uid| find(&core.app, &core.pool, uid, &places, Patience::Answer);
    let mut found = find(uid).await;
    // What is copied from elsewhere often brings a space along.
    if matches!(found, Ok(None)) && uid != uid.trim() {
        found = find(uid.trim()).await;
    }
    found.into()
}

impl From<Result<Option<Bytes>, ApiError>> for Outcome {
    fn from(found: Result<Option<Bytes>, ApiError>) -> Self {
        match found {
            Ok(Some(json)) => Self::Found(Box::new(
                serde_json::from_slice(&json).expect("it was written from an order"),
            )),
            Ok(None) => Self::Unknown,
            Err(error) => Self::Unavailable(error.status()),
        }
    }
}

impl Outcome {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotAsked | Self::Found(_) => StatusCode::OK,
            Self::Empty | Self::Impossible(_) => StatusCode::BAD_REQUEST,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Unavailable(status) => *status,
        }
    }

    /// The outcome in a few words: the title of the page, and what a screen reader says.
    fn headline(&self) -> String {
        match self {
            Self::NotAsked => "Find an order".to_owned(),
            Self::Empty => "Which order?".to_owned(),
            Self::Impossible(_) => "No order can have this uid".to_owned(),
            Self::Unknown => "There is no order of this uid".to_owned(),
            Self::Unavailable(_) => "Orders cannot be looked up just now".to_owned(),
            Self::Found(order) => format!("Order {}", order.order_uid),
        }
    }
}

/// An amount of an order; all of them are in the minor unit of its currency.
fn money(order: &OrderPlaced, minor_units: &i64) -> String {
    format::money(*minor_units, &order.payment.currency)
}

/// When the order was made; if the text that came is a time.
fn placed_at(order: &OrderPlaced) -> Option<String> {
    let time: Timestamp = order.date_created.parse().ok()?;
    Some(format::readable(time))
}

/// When it was paid; if the number that came is a time.
fn paid_at(order: &OrderPlaced) -> Option<String> {
    let time = Timestamp::from_second(order.payment.payment_dt).ok()?;
    Some(format::readable(time))
}

/// What a buyer hardly asks for, and support does: names and values.
fn details(order: &OrderPlaced) -> [(&'static str, String); 11] {
    [
        ("Customer", order.customer_id.clone()),
        ("Language", order.locale.clone()),
        ("Entry", order.entry.clone()),
        ("Transaction", order.payment.transaction.clone()),
        ("Payment request", order.payment.request_id.clone()),
        ("Internal signature", order.internal_signature.clone()),
        ("Shard key", order.shardkey.clone()),
        ("sm_id", order.sm_id.to_string()),
        ("oof_shard", order.oof_shard.clone()),
        ("Created, as sent", order.date_created.clone()),
        (
            "Paid, seconds since 1970",
            order.payment.payment_dt.to_string(),
        ),
    ]
}

/// The same of an item.
fn item_details(item: &Item) -> [(&'static str, String); 4] {
    [
        ("Article (nm_id)", item.nm_id.to_string()),
        ("Article in this size (chrt_id)", item.chrt_id.to_string()),
        ("Line (rid)", item.rid.clone()),
        ("Tracking number", item.track_number.clone()),
    ]
}
