//! What the sale of this process did.

use processors::sales::{Refused, Stock};
use producers::metrics::{Counter, Family, Gauge, Histogram, Registry, latency_seconds};
use schemas::sale_attempts::Refusal;

use super::OfWord;

/// Which request, its verdict, and who gave it.
type OfVerdict = [(&'static str, &'static str); 3];

/// What the sale of this process did.
#[derive(Debug, Clone)]
pub struct SaleMetrics {
    verdicts: Family<OfVerdict, Counter>,
    by_board: ByBoard,
    /// From a request until its verdict by the log.
    pub settle_seconds: Histogram,
    /// Refusals that did not get to the topic of attempts.
    pub attempts_dropped: Counter,
    items: Family<OfWord, Gauge>,
    listeners: Gauge,
}

/// The refusals of checkouts by what is known here, looked up once: nothing else is counted as often.
#[derive(Debug, Clone)]
struct ByBoard {
    item_reserved: Counter,
    item_sold: Counter,
    user_limit: Counter,
    sold_out: Counter,
}

impl ByBoard {
    fn of(verdicts: &Family<OfVerdict, Counter>) -> Self {
        let of = |refused: Refused| {
            let label = label("checkout", refused.name(), "board");
            verdicts.get_or_create(&label).clone()
        };
        Self {
            item_reserved: of(Refused::ItemReserved),
            item_sold: of(Refused::ItemSold),
            user_limit: of(Refused::UserLimit),
            sold_out: of(Refused::SoldOut),
        }
    }
}

impl Default for SaleMetrics {
    fn default() -> Self {
        let verdicts = Family::default();
        let metrics = Self {
            by_board: ByBoard::of(&verdicts),
            verdicts,
            settle_seconds: latency_seconds(),
            attempts_dropped: Counter::default(),
            items: Family::default(),
            listeners: Gauge::default(),
        };
        // What should never be is shown as none: so the first is a rise.
        for request in ["checkout", "purchase"] {
            metrics.of(request, "void", "log");
            metrics.of(request, "outcome_unknown", "nobody");
        }
        metrics
    }
}

impl SaleMetrics {
    /// Makes these counters part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sale_verdicts",
            "Answers to requests of the sale, by request, verdict, and who gave it: the log, the board of what is known here, or nobody",
            self.verdicts.clone(),
        );
        registry.register(
            "sale_settle_seconds",
            "From a request of the sale until its verdict by the log",
            self.settle_seconds.clone(),
        );
        registry.register(
            "sale_attempts_dropped",
            "Refusals that needed no log and did not get to the topic of attempts",
            self.attempts_dropped.clone(),
        );
        registry.register(
            "sale_items",
            "Items of the running sale by their state; none while the sale is not open",
            self.items.clone(),
        );
        registry.register(
            "sale_listeners",
            "Who watches the running sale by its events",
            self.listeners.clone(),
        );
    }

    /// Counts an answer.
    pub fn count(&self, request: &'static str, verdict: &'static str, by: &'static str) {
        self.of(request, verdict, by).inc();
    }

    fn of(&self, request: &'static str, verdict: &'static str, by: &'static str) -> Counter {
        self.verdicts
            .get_or_create(&label(request, verdict, by))
            .clone()
    }

    /// Shows how the running sale stands, if it is known, and how many watch it.
    pub fn show(&self, stock: Option<&Stock>, listeners: usize) {
        self.listeners
            .set(i64::try_from(listeners).unwrap_or(i64::MAX));
        let Some(stock) = stock else {
            self.items.clear();
            return;
        };
        for (state, items) in [
            ("sold", stock.sold),
            ("reserved", stock.reserved),
            ("free", stock.free()),
        ] {
            let label = [("state", state)];
            self.items.get_or_create(&label).set(items.into());
        }
    }

    /// Counts a checkout that was refused without the log.
    pub fn count_by_board(&self, reason: Refusal) {
        let counter = match reason {
            Refusal::ItemReserved => &self.by_board.item_reserved,
            Refusal::ItemSold => &self.by_board.item_sold,
            Refusal::UserLimit => &self.by_board.user_limit,
            Refusal::SoldOut | Refusal::Other => &self.by_board.sold_out,
        };
        counter.inc();
    }
}

fn label(request: &'static str, verdict: &'static str, by: &'static str) -> OfVerdict {
    [("request", request), ("verdict", verdict), ("by", by)]
}
