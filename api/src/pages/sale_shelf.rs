//! What was bought last in the running sale: asked of Postgres once a second, however many look.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use projections::{
    pool::Pool,
    sales_history::{self, Sold},
};
use schemas::sales::SaleId;
use tracing::debug;

/// For how long what was read is shown.
const FRESH: Duration = Duration::from_secs(1);
/// How many items are shown.
const LAST_MAX: i64 = 12;

/// The shelf of what was bought last.
#[derive(Default)]
pub struct Shelf {
    read: ArcSwapOption<Read>,
    is_being_read: AtomicBool,
}

struct Read {
    sale: SaleId,
    at: Instant,
    items: Arc<Vec<Sold>>,
}

impl Shelf {
    /// What was bought last in a sale, the newest first; none if that is not known just now.
    pub async fn of(&self, pool: &Pool, sale: SaleId) -> Option<Arc<Vec<Sold>>> {
        let read = self.read.load_full().filter(|read| read.sale == sale);
        let is_fresh = read.as_ref().is_some_and(|read| read.at.elapsed() < FRESH);
        if is_fresh || self.is_being_read.swap(true, Ordering::AcqRel) {
            return read.map(|read| Arc::clone(&read.items));
        }
        let _reading = Reading(&self.is_being_read);
        let items = match sales_history::last_sold(pool, sale, LAST_MAX).await {
            Ok(items) => Arc::new(items),
            Err(error) => {
                debug!(%error, "what was bought last is not known");
                return None;
            }
        };
        self.read.store(Some(Arc::new(Read {
            sale,
            at: Instant::now(),
            items: Arc::clone(&items),
        })));
        Some(items)
    }
}

/// Who reads; given up by a caller who goes, too.
struct Reading<'s>(&'s AtomicBool);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
