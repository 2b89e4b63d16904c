//! The answers of the history of sales.

use jiff::Timestamp;
use processors::sales::Stock;
use projections::sales_history::{Attempt, Sold, Standing};
use schemas::{
    position::Position,
    sale_items::{image_path, item_name},
    sales::SaleId,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::asked::Cut;
use crate::{
    document,
    sale::stands::{SaleStands, time},
};

impl From<Standing> for SaleStands {
    fn from(Standing { sale, reserved }: Standing) -> Self {
        Self::from(Stock {
            sale: sale.id,
            ends_at_ms: sale.ends_at_ms,
            rules: sale.rules,
            sold: sale.sold,
            reserved,
        })
    }
}

/// Sales, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sales)]
pub(super) struct SalesAnswer {
    sales: Vec<SaleStands>,
    /// The `after` of the next page; null at the end.
    #[schema(value_type = Option<String>, required = true, examples("20261121T0900Z"))]
    next: Value,
}

impl From<Cut<Standing>> for SalesAnswer {
    fn from(Cut { rows, next }: Cut<Standing>) -> Self {
        Self {
            sales: rows.into_iter().map(SaleStands::from).collect(),
            next,
        }
    }
}

/// Items that were bought, by their ids.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SoldItems)]
pub(super) struct ItemsAnswer {
    items: Vec<ItemAnswer>,
    /// The `after` of the next page; null at the end.
    #[schema(value_type = Option<i32>, required = true, examples(99))]
    next: Value,
}

/// An item that was bought.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SoldItem)]
struct ItemAnswer {
    /// The item.
    #[schema(minimum = 0, maximum = 9_999)]
    item_id: i32,
    /// What it is called.
    #[schema(examples("Amber Walnut Lamp"))]
    item_name: String,
    /// Where its picture is, at this host.
    #[schema(examples("/sale/images/20261121T0900Z/7.svg"))]
    image_url: String,
    /// Who bought it.
    #[schema(minimum = 0)]
    purchased_by: i64,
    /// When.
    #[schema(value_type = String, format = DateTime, examples("2026-11-21T09:00:01.234Z"))]
    purchased_at: Timestamp,
}

impl ItemsAnswer {
    /// The items of this sale.
    pub(super) fn new(sale: SaleId, Cut { rows, next }: Cut<Sold>) -> Self {
        let item = |row: Sold| ItemAnswer {
            item_id: row.item_id,
            item_name: item_name(sale, row.item_id),
            image_url: image_path(sale, row.item_id),
            purchased_by: row.purchased_by,
            purchased_at: time(row.purchased_at_ms),
        };
        Self {
            items: rows.into_iter().map(item).collect(),
            next,
        }
    }
}

/// Requests of a sale, by time.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleAttempts)]
pub(super) struct AttemptsAnswer {
    attempts: Vec<AttemptAnswer>,
    /// The `after` of the next page; null at the end.
    #[schema(value_type = Option<String>, required = true)]
    next: Value,
}

/// A request and what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SaleAttempt)]
struct AttemptAnswer {
    /// `checkout` or `purchase`.
    #[schema(examples("checkout"))]
    kind: String,
    /// Who asked; null for a purchase that was refused.
    #[schema(required = true, minimum = 0)]
    user_id: Option<i64>,
    /// For which item; null for a purchase that was refused.
    #[schema(required = true, minimum = 0, maximum = 9_999)]
    item_id: Option<i32>,
    /// `reserved`, `purchased`, or the reason of a refusal.
    #[schema(examples("item_sold"))]
    verdict: String,
    /// When it was decided.
    #[schema(value_type = String, format = DateTime, examples("2026-11-21T09:00:01.234Z"))]
    at: Timestamp,
    /// Until when the item is reserved; only with `reserved`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// Whether this is the answer to an earlier request with the same key, given again.
    is_replayed: bool,
    /// The record of the request.
    #[schema(value_type = document::Position)]
    position: String,
}

impl AttemptsAnswer {
    /// The attempts; `topics` has the names of the topic of the log, and of that beside it.
    pub(super) fn new(Cut { rows, next }: Cut<Attempt>, topics: &[String; 2]) -> Self {
        let attempt = |row: Attempt| AttemptAnswer {
            kind: row.kind,
            user_id: row.user_id,
            item_id: row.item_id,
            verdict: row.verdict,
            at: time(row.place.at_ms),
            expires_at: row.expires_at_ms.map(time),
            is_replayed: row.is_replayed,
            position: Position {
                topic: topics[usize::from(row.place.is_beside)].clone(),
                partition: row.place.partition,
                offset: row.place.offset,
            }
            .to_string(),
        };
        Self {
            attempts: rows.into_iter().map(attempt).collect(),
            next,
        }
    }
}
