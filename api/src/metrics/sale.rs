//! What the sale of this process did.

use processors::sales::Refused;
use producers::metrics::{Counter, Family, Histogram, Registry, latency_seconds};
use schemas::sale_attempts::Refusal;

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
        Self {
            by_board: ByBoard::of(&verdicts),
            verdicts,
            settle_seconds: latency_seconds(),
            attempts_dropped: Counter::default(),
        }
    }
}

impl SaleMetrics {
    /// Makes these counters part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sale_verdicts",
            "Answers to requests of the sale, by request, verdict, and whether the log gave it or what is known here",
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
    }

    /// Counts an answer.
    pub fn count(&self, request: &'static str, verdict: &'static str, by: &'static str) {
        let label = label(request, verdict, by);
        self.verdicts.get_or_create(&label).inc();
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
