//! The sale for those who watch it: one look for all of them, a few times a second. Before this: `api/src/sale/stands.rs`;
//! next: `api/src/routes/sale_events.rs`.
//!
//! An event says everything, and all listeners send the same bytes. So nothing is collected for a listener that is slow: it
//! misses what was between, and if it takes nothing at all, its connection breaks (`api/src/sending.rs`).

use std::{
    convert::Infallible,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use processors::sales::Stock;
use producers::clock;
use schemas::sales::SaleId;
use serde_json::json;
use tokio::{
    sync::watch::{Receiver, Sender},
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};

use super::{
    Sale,
    stands::{SaleEventData, time},
};
use crate::pace::Pace;

/// How often it is looked, and so the least time between two events.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long nothing is told while nothing changes: silence means that a connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// The most events that all listeners together are sent in a second: with more listeners, each gets fewer.
const EVENTS_A_SECOND_MAX: usize = 8_000;
/// The most listeners; fewer where there is room for fewer callers.
pub(crate) const LISTENERS_MAX: usize = 10_000;
/// Over how long it is measured how fast a sale sells.
const PACE_OVER: Duration = Duration::from_secs(5);
/// When a listener that was cut off should come again, in milliseconds: from this on, and not all at once.
const RETRY_MS: u16 = 1_000;

/// The sale for those who watch it.
pub struct Live {
    shown: Sender<Shown>,
    listeners_max: AtomicUsize,
}

/// What was seen last.
#[derive(Debug, Clone, Default)]
struct Shown {
    /// None while the sale is not open.
    sight: Option<Sight>,
    event: Bytes,
    /// No other comes after it.
    is_last: bool,
}

/// How the sale stands, and how fast it sells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sight {
    /// How it stands.
    pub stock: Stock,
    /// How many items were bought a second, over the last seconds.
    pub sold_per_second: f64,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            shown: Sender::new(Shown::default()),
            listeners_max: AtomicUsize::new(LISTENERS_MAX),
        }
    }
}

impl Live {
    /// How the sale was seen last; as it stands now if it has opened since; none if it is not open.
    pub fn sight(&self, sale: &Sale) -> Option<Sight> {
        let seen = self.shown.borrow().sight;
        seen.or_else(|| look(sale))
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.shown.receiver_count()
    }

    /// Lets so many listen at a time.
    pub(crate) fn allow(&self, listeners_max: usize) {
        self.listeners_max.store(listeners_max, Ordering::Relaxed);
    }

    /// The events from now on, the first of them at once; none if too many listen.
    ///
    /// `unseen` is asked for the sale if it was not open when it was last looked.
    pub fn listen(&self, unseen: impl FnOnce() -> Option<Sight>) -> Option<Listener> {
        if self.listeners() >= self.listeners_max.load(Ordering::Relaxed) {
            return None;
        }
        let mut shown = self.shown.subscribe();
        let seen = shown.borrow_and_update().sight;
        let sight = seen.or_else(unseen);
        let retry_ms = RETRY_MS + clock::chance::<u16>() % RETRY_MS;
        // Written now, so that it has the time of now.
        let first = format!("retry: {retry_ms}\n{}", event(sight, clock::now_ms()));
        Some(Listener {
            first: Some(first.into()),
            next: ReusableBoxFuture::new(next(shown)),
        })
    }

    /// Looks at the sale until `stop`, which ends all listening.
    pub async fn follow(&self, sale: &Sale, stop: &CancellationToken) {
        let _last = Last(self);
        let mut pace = SalePace::default();
        let mut told_at = Instant::now();
        while stop
            .run_until_cancelled(sleep(self.look_every()))
            .await
            .is_some()
        {
            let (now, now_ms) = (Instant::now(), clock::now_ms());
            let sight = sale.stock(now_ms).map(|stock| Sight {
                stock,
                sold_per_second: pace.per_second(&stock, now),
            });
            if sight == self.shown.borrow().sight && now - told_at < SILENCE_MAX {
                continue;
            }
            told_at = now;
            self.shown.send_replace(Shown {
                sight,
                event: event(sight, now_ms).into(),
                is_last: false,
            });
        }
    }

    fn look_every(&self) -> Duration {
        let all_told =
            Duration::from_secs(1).mul_f64(self.listeners() as f64 / EVENTS_A_SECOND_MAX as f64);
        all_told.max(LOOK_EVERY)
    }
}

/// How a sale stands now, of which nobody has seen how fast it sells.
pub fn look(sale: &Sale) -> Option<Sight> {
    let stock = sale.stock(clock::now_ms())?;
    Some(Sight {
        stock,
        sold_per_second: 0.0,
    })
}

/// Ends all listening, however looking ends.
struct Last<'l>(&'l Live);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.shown.send_modify(|shown| shown.is_last = true);
    }
}

/// An event as it is sent. It has no id: there is nothing to go on from, as each says everything.
fn event(sight: Option<Sight>, now_ms: i64) -> String {
    let server_time = time(now_ms);
    let Some(sight) = sight else {
        let data = json!({ "server_time": server_time });
        return format!("event: closed\ndata: {data}\n\n");
    };
    let data = SaleEventData {
        stands: sight.stock.into(),
        server_time,
        sold_per_second: sight.sold_per_second,
    };
    let data = serde_json::to_string(&data).expect("it has only numbers and texts");
    format!("data: {data}\n\n")
}

/// The events of one listener: a body without an end.
pub struct Listener {
    first: Option<Bytes>,
    next: ReusableBoxFuture<'static, Receiver<Shown>>,
}

/// Waits for the next event.
async fn next(mut shown: Receiver<Shown>) -> Receiver<Shown> {
    let is_last = shown.borrow().is_last;
    if !is_last {
        // The sender lives as long as the process.
        let _ = shown.changed().await;
    }
    shown
}

impl HttpBody for Listener {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let mut shown = ready!(self.next.poll(context));
        let Shown { event, is_last, .. } = shown.borrow_and_update().clone();
        self.next.set(next(shown));
        let event = (!is_last).then(|| Ok(Frame::data(event)));
        Poll::Ready(event)
    }
}

/// How fast a sale sells.
struct SalePace {
    sale: Option<SaleId>,
    sold: Pace,
}

impl Default for SalePace {
    fn default() -> Self {
        Self {
            sale: None,
            sold: Pace::over(PACE_OVER),
        }
    }
}

impl SalePace {
    /// Items a second, to one decimal.
    fn per_second(&mut self, stock: &Stock, now: Instant) -> f64 {
        if self.sale != Some(stock.sale) {
            // A sale that took the place of another has sold nothing before that was seen last.
            let began = self.sold.last().map(|(at, _)| (at, 0));
            self.sold.begin(began);
            self.sale = Some(stock.sale);
        }
        self.sold.per_second(stock.sold.into(), now.into_std())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use schemas::sale_rules::SaleRulesSet;

    use super::*;

    fn stock(sale: i64, sold: u32) -> Stock {
        Stock {
            sale: SaleId::starting_at_ms(sale),
            ends_at_ms: sale + 10_000,
            rules: SaleRulesSet {
                items: 100,
                limit: 2,
                reservation_seconds: 3,
                sale_seconds: 10,
            },
            sold,
            reserved: 0,
        }
    }

    impl Live {
        fn tell(&self, text: &'static str) {
            self.shown.send_modify(|shown| shown.event = text.into());
        }
    }

    /// What a listener is sent now; nothing, an event, or the end.
    fn sent(listener: &mut Listener) -> Poll<Option<Bytes>> {
        let mut context = Context::from_waker(Waker::noop());
        let frame = Pin::new(listener).poll_frame(&mut context);
        frame.map(|frame| frame.map(|Ok(frame)| frame.into_data().unwrap()))
    }

    #[test]
    fn a_listener_hears_something_at_once_and_then_the_newest_alone() {
        let live = Live::default();
        let mut listener = live.listen(|| None).unwrap();
        let Poll::Ready(Some(first)) = sent(&mut listener) else {
            panic!("nothing at once");
        };
        let first = std::str::from_utf8(&first).unwrap();
        assert!(first.starts_with("retry: "), "{first}");
        assert!(first.contains("\nevent: closed\ndata: {"), "{first}");
        assert!(first.ends_with("}\n\n"), "{first}");
        assert_eq!(sent(&mut listener), Poll::Pending);
        for text in ["one", "two", "three"] {
            live.tell(text);
        }
        assert_eq!(sent(&mut listener), Poll::Ready(Some("three".into())));
        assert_eq!(sent(&mut listener), Poll::Pending);
    }

    #[test]
    fn all_listeners_send_the_same_bytes() {
        let live = Live::default();
        let mut listeners = [(); 3].map(|()| live.listen(|| None).unwrap());
        for listener in &mut listeners {
            assert!(sent(listener).is_ready());
        }
        live.tell("all");
        let places = listeners.each_mut().map(|listener| match sent(listener) {
            Poll::Ready(Some(event)) => event.as_ptr(),
            other => panic!("{other:?}"),
        });
        assert_eq!(places, [places[0]; 3]);
    }

    #[test]
    fn at_the_end_listeners_are_let_go_also_those_who_come_later() {
        let live = Live::default();
        let mut early = live.listen(|| None).unwrap();
        assert!(sent(&mut early).is_ready());
        drop(Last(&live));
        assert_eq!(sent(&mut early), Poll::Ready(None));
        let mut late = live.listen(|| None).unwrap();
        assert!(matches!(sent(&mut late), Poll::Ready(Some(_))));
        assert_eq!(sent(&mut late), Poll::Ready(None));
    }

    #[test]
    fn there_is_room_for_so_many_listeners_and_each_gets_fewer_events_if_they_are_many() {
        let live = Live::default();
        assert_eq!(live.look_every(), LOOK_EVERY);
        live.allow(4_000);
        let listeners: Vec<_> = (0..4_000).map(|_| live.listen(|| None).unwrap()).collect();
        assert!(live.listen(|| None).is_none());
        assert_eq!(live.look_every(), Duration::from_millis(500));
        drop(listeners);
        assert!(live.listen(|| None).is_some());
        // Silence stays short even so.
        let most = LISTENERS_MAX as f64 / EVENTS_A_SECOND_MAX as f64;
        assert!(most < 2.0 && SILENCE_MAX + LOOK_EVERY < Duration::from_secs(2));
    }

    #[test]
    fn the_pace_is_that_of_the_last_seconds_of_this_sale() {
        let mut pace = SalePace::default();
        let began = Instant::now();
        let mut after = |seconds: f64, sale, sold| {
            pace.per_second(&stock(sale, sold), began + Duration::from_secs_f64(seconds))
        };
        assert_eq!(after(0.0, 0, 70), 0.0);
        assert_eq!(after(0.5, 0, 73), 3.0);
        assert_eq!(after(2.0, 0, 75), 2.5);
        assert_eq!(after(5.0, 0, 75), 1.0);
        assert_eq!(after(7.0, 0, 75), 0.0);
        assert_eq!(after(60.0, 0, 76), 0.0);
        assert_eq!(after(61.0, 0, 76), 0.0);
        // The next sale: what it sold since the last one was seen.
        assert_eq!(after(62.0, 10_000, 50), 50.0);
        assert_eq!(after(63.0, 10_000, 52), 26.0);
    }
}
