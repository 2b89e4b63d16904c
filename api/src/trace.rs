//! Which trace a request belongs to: in every line that is logged about it, in its answer, and in what it writes; and
//! one line a request. A click costs no id and no span as long as all is well and nobody asks for its trace.

use std::{
    cell::OnceCell,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderMap, HeaderValue, Method, request::Parts},
    response::Response,
};
use producers::trace::{TRACEPARENT, TRACESTATE, Trace};
use tokio::task::futures::TaskLocalFuture;
use tower::{Layer, Service};
use tracing::{Instrument, Level, Span, debug, error_span, instrument::Instrumented, warn};

use crate::{
    error::{Cause, Reason},
    metrics::{ApiMetrics, UNMATCHED},
    routes::clicks,
};

/// The header of an answer that names its trace, as the standard's draft for answers has it.
pub const TRACERESPONSE: &str = "traceresponse";
/// The most failures that are logged a second: under load, logging them would be the load.
const FAILURES_LOGGED_MAX: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// The trace of the request that is being answered, once it has one.
    static TRACE: OnceCell<Trace>;
}

/// The trace of the request that is being answered; gives it one if it has none.
pub fn current() -> Trace {
    let of_request = TRACE.try_with(|trace| trace.get_or_init(Trace::start).clone());
    of_request.unwrap_or_else(|_| Trace::start())
}

/// The trace of the request.
pub struct Traced(pub Trace);

impl<S: Sync> FromRequestParts<S> for Traced {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(current()))
    }
}

/// Follows requests: a layer around everything else that answers them.
#[derive(Clone)]
pub struct Follow(Arc<Shared>);

/// Shared, so that a request costs one count of references.
struct Shared {
    metrics: ApiMetrics,
    failures: Arc<Failures>,
}

impl Follow {
    /// Counts here what it sees.
    pub fn new(metrics: ApiMetrics, failures: Arc<Failures>) -> Self {
        Self(Arc::new(Shared { metrics, failures }))
    }
}

impl<S> Layer<S> for Follow {
    type Service = Followed<S>;

    fn layer(&self, inner: S) -> Followed<S> {
        Followed {
            inner,
            follow: self.clone(),
        }
    }
}

/// See [`Follow`].
#[derive(Clone)]
pub struct Followed<S> {
    inner: S,
    follow: Follow,
}

impl<S> Service<Request> for Followed<S>
where
    S: Service<Request, Response = Response>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = S::Error;
    type Future = TaskLocalFuture<OnceCell<Trace>, Instrumented<Answering<S::Future>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let route = request.extensions().get::<MatchedPath>().cloned();
        let is_click = route
            .as_ref()
            .is_some_and(|route| route.as_str() == clicks::COUNTER);
        let trace = match carried_on(request.headers()) {
            Some(trace) => OnceCell::from(trace),
            None if is_click && !tracing::enabled!(Level::DEBUG) => OnceCell::new(),
            None => OnceCell::from(Trace::start()),
        };
        let span = trace.get().map_or_else(Span::none, span);
        let answering = Answering {
            began: Instant::now(),
            method: request.method().clone(),
            route,
            follow: self.follow.clone(),
            answer: self.inner.call(request),
        };
        TRACE.scope(trace, answering.instrument(span))
    }
}

fn carried_on(headers: &HeaderMap) -> Option<Trace> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    // With two of them, nobody knows which is meant.
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return None;
    };
    let states = headers.get_all(TRACESTATE).iter();
    Trace::carry_on(parent.as_bytes(), states.map(HeaderValue::as_bytes))
}

/// What marks the lines that are logged meanwhile. Of the highest level, so that no choice of levels leaves it out.
fn span(trace: &Trace) -> Span {
    error_span!("request", trace_id = %trace.id)
}

/// A request on its way to its answer.
pub struct Answering<F> {
    answer: F,
    began: Instant,
    method: Method,
    route: Option<MatchedPath>,
    follow: Follow,
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response, E>> + Unpin,
{
    type Output = Result<Response, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = ready!(Pin::new(&mut self.answer).poll(context));
        if let Ok(response) = &mut answer {
            self.answered(response);
        }
        Poll::Ready(answer)
    }
}

impl<F> Answering<F> {
    /// The route as it is written in the list of routes, not as somebody filled it in.
    fn path(&self) -> &str {
        self.route.as_ref().map_or(UNMATCHED, MatchedPath::as_str)
    }

    fn answered(&self, response: &mut Response) {
        let (status, took) = (response.status(), self.began.elapsed());
        let metrics = &self.follow.0.metrics;
        metrics.http.observe(self.path(), status, took);
        if let Some(reason) = response.extensions().get::<Reason>() {
            let label = [("reason", reason.name())];
            metrics.refusals.get_or_create(&label).inc();
        }
        if status.is_server_error() {
            self.log_failure(response, took);
        } else {
            let (method, path, status) = (&self.method, self.path(), status.as_u16());
            debug!(%method, path, status, ms = ms(took), "answered a request");
        }
        TRACE.with(|trace| {
            let named = trace.get().map(Trace::traceparent);
            if let Some(value) = named.and_then(|text| HeaderValue::try_from(text).ok()) {
                response.headers_mut().insert(TRACERESPONSE, value);
            }
        });
    }

    fn log_failure(&self, response: &Response, took: Duration) {
        let Some(left_out) = self.follow.0.failures.count(Instant::now()) else {
            return;
        };
        let log = || {
            let (method, path, status) = (&self.method, self.path(), response.status().as_u16());
            let cause = response.extensions().get::<Cause>().map(|cause| &*cause.0);
            warn!(%method, path, status, cause, ms = ms(took), left_out, "a request failed");
        };
        if Span::current().is_none() {
            return span(&current()).in_scope(log);
        }
        log();
    }
}

/// Milliseconds, to three places.
fn ms(took: Duration) -> f64 {
    took.as_micros() as f64 / 1e3
}

/// The failures of this second, in all threads.
#[derive(Default)]
pub struct Failures(Mutex<Option<(Instant, u32)>>);

impl Failures {
    /// Whether one more is to be logged, and if so, how many were left out before it.
    fn count(&self, now: Instant) -> Option<u32> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            Some((since, count)) if now.duration_since(*since) < SECOND => {
                *count = count.saturating_add(1);
                (*count <= FAILURES_LOGGED_MAX).then_some(0)
            }
            earlier => {
                let count = earlier.replace((now, 1)).map_or(0, |(_, count)| count);
                Some(count.saturating_sub(FAILURES_LOGGED_MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_is_logged_in_part_and_counted() {
        let failures = Failures::default();
        let now = Instant::now();
        for _ in 0..FAILURES_LOGGED_MAX {
            assert_eq!(failures.count(now), Some(0));
        }
        assert_eq!(failures.count(now + SECOND / 2), None);
        assert_eq!(failures.count(now + SECOND / 2), None);
        assert_eq!(failures.count(now + SECOND), Some(2));
        assert_eq!(failures.count(now + SECOND), Some(0));
        assert_eq!(failures.count(now + 3 * SECOND), Some(0));
    }

    #[test]
    fn two_parents_are_none() {
        let parent = Trace::start().traceparent();
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, parent.parse().unwrap());
        assert!(carried_on(&headers).is_some());
        headers.append(TRACEPARENT, parent.parse().unwrap());
        assert!(carried_on(&headers).is_none());
    }
}
