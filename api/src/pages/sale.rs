//! The page `/sale`: the running sale, live. Before this: `api/src/routes/sale_events.rs`, which its script listens to;
//! next: `sale.html` beside it.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use jiff::Timestamp;
use processors::sales::Stock;
use producers::clock;
use projections::sales_history::Sold;
use schemas::{
    sale_items::{image_path, item_name},
    sales::SaleId,
};

use super::{PAGES, answer, format};
use crate::{
    app::Core,
    sale::{live::Sight, stands::time},
};

#[derive(Template)]
#[template(path = "sale.html")]
struct SalePage {
    now: Timestamp,
    /// None while the sale is not open.
    running: Option<Running>,
}

/// The sale that runs.
struct Running {
    stock: Stock,
    sold_per_second: f64,
    /// What was bought last; none if that is not known just now.
    last: Option<Vec<Item>>,
}

/// An item that was bought.
struct Item {
    name: String,
    picture: String,
    buyer: i64,
    at: String,
}

/// Shows the page.
pub async fn show(State(core): State<Arc<Core>>) -> Response {
    let now_ms = clock::now_ms();
    let mut page = SalePage {
        now: time(now_ms),
        running: None,
    };
    let sight = core.app.live.sight(&core.app.sale);
    let Some(Sight {
        stock,
        sold_per_second,
    }) = sight
    else {
        return answer(StatusCode::SERVICE_UNAVAILABLE, &page);
    };
    let last = core.app.shelf.of(&core.pool, stock.sale).await;
    let item = |sold: &Sold| Item::of(stock.sale, sold);
    page.running = Some(Running {
        stock,
        sold_per_second,
        last: last.map(|last| last.iter().map(item).collect()),
    });
    answer(StatusCode::OK, &page)
}

impl Item {
    fn of(sale: SaleId, sold: &Sold) -> Self {
        Self {
            name: item_name(sale, sold.item_id),
            picture: image_path(sale, sold.item_id),
            buyer: sold.purchased_by,
            at: format::clock(time(sold.purchased_at_ms)),
        }
    }
}

impl SalePage {
    /// What the style of the page goes by; the script comes to the same words.
    fn state(&self) -> &'static str {
        match &self.running {
            None => "closed",
            Some(Running { stock, .. }) => match stock.free() {
                0 if stock.reserved == 0 => "sold-out",
                0 => "taken",
                _ => "open",
            },
        }
    }

    /// A number of the sale; of one that is not open, none is known.
    fn number(&self, of: impl Fn(&Stock) -> u32) -> String {
        let number = self.running.as_ref().map(|running| of(&running.stock));
        number.map_or_else(|| "–".to_owned(), format::count)
    }

    fn pace(&self) -> String {
        let pace = self.running.as_ref().map(|running| running.sold_per_second);
        pace.map_or_else(|| "–".to_owned(), |pace| format!("{pace:.1}"))
    }

    fn ends_at(&self) -> String {
        let ends_at = self.running.as_ref().map(Running::ends_at);
        ends_at.map_or_else(|| "–".to_owned(), format::clock)
    }

    /// How long it still runs: minutes and seconds.
    fn left(&self) -> String {
        let Some(running) = &self.running else {
            return "–".to_owned();
        };
        let seconds = running.ends_at().duration_since(self.now).as_secs().max(0);
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }
}

impl Running {
    fn ends_at(&self) -> Timestamp {
        time(self.stock.ends_at_ms)
    }

    fn items(&self) -> u32 {
        items(&self.stock)
    }
}

fn items(stock: &Stock) -> u32 {
    stock.rules.items.unsigned_abs()
}

fn sold(stock: &Stock) -> u32 {
    stock.sold
}

fn reserved(stock: &Stock) -> u32 {
    stock.reserved
}
