//! How a sale stands, as it is told. Before this: `processors/src/sales.rs`.

use jiff::Timestamp;
use processors::sales::Stock;
use schemas::sales::SaleId;
use serde::Serialize;
use utoipa::ToSchema;

/// A sale and how it stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sale)]
pub struct SaleStands {
    /// Its name: when it starts.
    #[schema(value_type = String, examples("20261121T0900Z"))]
    pub sale_id: SaleId,
    /// When it starts.
    #[schema(value_type = String, format = DateTime, examples("2026-11-21T09:00:00Z"))]
    pub starts_at: Timestamp,
    /// When it is over.
    #[schema(value_type = String, format = DateTime, examples("2026-11-21T10:00:00Z"))]
    pub ends_at: Timestamp,
    /// How many items it has: those from 0 on.
    #[schema(minimum = 1, maximum = 10_000)]
    pub items: i32,
    /// How many of them a user may have bought and reserved together.
    #[schema(minimum = 1, maximum = 10_000)]
    pub limit: i32,
    /// How many are bought.
    #[schema(minimum = 0, maximum = 10_000)]
    pub sold: u32,
    /// How many are reserved.
    #[schema(minimum = 0, maximum = 10_000)]
    pub reserved: u32,
}

impl From<Stock> for SaleStands {
    fn from(stock: Stock) -> Self {
        Self {
            sale_id: stock.sale,
            starts_at: time(stock.sale.starts_at_ms()),
            ends_at: time(stock.ends_at_ms),
            items: stock.rules.items,
            limit: stock.rules.limit,
            sold: stock.sold,
            reserved: stock.reserved,
        }
    }
}

/// A sale as those who watch it are told: the data of an event.
#[derive(Debug, Serialize, ToSchema)]
pub struct SaleEventData {
    /// The sale, as `GET /v1/sale` has it.
    #[serde(flatten)]
    pub stands: SaleStands,
    /// The clock of the server.
    pub server_time: Timestamp,
    /// How many items were bought a second, over the last seconds.
    #[schema(minimum = 0)]
    pub sold_per_second: f64,
}

/// A time of the sale, given in milliseconds since 1970-01-01T00:00:00Z.
pub fn time(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or_default()
}
