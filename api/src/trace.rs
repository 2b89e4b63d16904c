//! Which trace a request belongs to: in every line that is logged about it, in its answer, and in what it writes; and
//! one line a request. A click costs no id and no span as long as all is well and nobody asks for its trace; a request of
//! the sale costs an id, but no span.

use std::{
    cell::OnceCell,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderMap, HeaderValue, Method, header, request::Parts},
    response::{IntoResponse, Response},
};
use pin_project_lite::pin_project;
use producers::trace::{TRACEPARENT, TRACESTATE, Trace};
use tokio::{
    task::futures::TaskLocalFuture,
    time::{Timeout, timeout},
};
use tower::{Layer, Service};
use tracing::{Instrument, Level, Span, debug, error_span, instrument::Instrumented, warn};

use crate::{
    app::Core,
    error::{ApiError, Cause, Reason},
    metrics::{OfRoute, UNMATCHED},
    routes::{clicks, sale},
};

/// The header of an answer that names its trace, as the standard's draft for answers has it.
pub const TRACERESPONSE: &str = "traceresponse";
/// The longest that a request may take until its answer begins.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
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

/// Follows requests from their head to the head of their answer: a layer around everything else that answers them. There
/// is no other, as each costs every request some allocations. It bounds the time, turns a panic into an answer, and
/// counts.
#[derive(Clone)]
pub struct Follow(Arc<Core>);

impl Follow {
    /// For requests of this thread.
    pub fn new(core: Arc<Core>) -> Self {
        Self(core)
    }
}

impl<S> Layer<S> for Follow {
    type Service = Followed<S>;

    fn layer(&self, inner: S) -> Followed<S> {
        let core = Arc::clone(&self.0);
        let route = OnceLock::new();
        Followed {
            inner,
            here: Arc::new(Here { core, route }),
        }
    }
}

/// See [`Follow`].
#[derive(Clone)]
pub struct Followed<S> {
    inner: S,
    here: Arc<Here>,
}

/// Where requests are answered. Shared, so that a request costs one count of references.
struct Here {
    core: Arc<Core>,
    /// A layer is laid around each route apart, but only requests tell which it is: the first does.
    route: OnceLock<Route>,
}

/// The route as it is written in the list of routes, not as somebody filled it in.
struct Route {
    path: Option<MatchedPath>,
    is_click: bool,
    /// On its way nothing is logged that a span would mark: it is made for the line about a failure.
    is_silent: bool,
    answered: Arc<OfRoute>,
}

impl<S> Service<Request> for Followed<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = TaskLocalFuture<OnceCell<Trace>, Instrumented<Answering<S::Future>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let route = self.here.route_of(&request);
        let is_brief = !tracing::enabled!(Level::DEBUG);
        let trace = match carried_on(request.headers()) {
            Some(trace) => OnceCell::from(trace),
            None if route.is_click && is_brief => OnceCell::new(),
            None => OnceCell::from(Trace::start()),
        };
        let span = match trace.get() {
            Some(trace) if !(route.is_silent && is_brief) => span(trace),
            _ => Span::none(),
        };
        let answering = Answering {
            began: Instant::now(),
            method: request.method().clone(),
            here: Arc::clone(&self.here),
            answer: timeout(REQUEST_TIMEOUT, self.inner.call(request)),
        };
        TRACE.scope(trace, answering.instrument(span))
    }
}

impl Here {
    fn route_of(&self, request: &Request) -> &Route {
        self.route.get_or_init(|| {
            let path = request.extensions().get::<MatchedPath>().cloned();
            let name = path.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
            Route {
                is_click: name == clicks::COUNTER,
                is_silent: [sale::CHECKOUT, sale::PURCHASE].contains(&name),
                answered: self.core.answered.on(name),
                path,
            }
        })
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

pin_project! {
    /// A request on its way to its answer.
    pub struct Answering<F> {
        #[pin]
        answer: Timeout<F>,
        began: Instant,
        method: Method,
        here: Arc<Here>,
    }
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // What panicked is not asked again.
        let answer = catch_unwind(AssertUnwindSafe(|| this.answer.poll(context)));
        let mut response = match answer {
            Err(_told_by_its_hook) => ApiError::internal().into_response(),
            Ok(answer) => match ready!(answer) {
                Ok(Ok(response)) => response,
                Err(_elapsed) => ApiError::timeout().into_response(),
            },
        };
        this.here
            .answered(this.method, this.began.elapsed(), &mut response);
        Poll::Ready(Ok(response))
    }
}

impl Here {
    fn path(&self) -> &str {
        let path = self.route.get().and_then(|route| route.path.as_ref());
        path.map_or(UNMATCHED, MatchedPath::as_str)
    }

    /// Counts and logs an answer, and adds what all of them have.
    fn answered(&self, method: &Method, took: Duration, response: &mut Response) {
        let status = response.status();
        if let Some(route) = self.route.get() {
            route.answered.observe(status, took);
        }
        if let Some(reason) = response.extensions().get::<Reason>() {
            self.core.answered.refuse(*reason);
        }
        if status.is_server_error() {
            self.log_failure(method, took, response);
        } else {
            let (path, status) = (self.path(), status.as_u16());
            debug!(%method, path, status, ms = ms(took), "answered a request");
        }
        let headers = response.headers_mut();
        // Nobody is to guess what an answer is.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        if self.core.closing.load(Ordering::Relaxed) {
            headers.insert(header::CONNECTION, CLOSE);
        }
        TRACE.with(|trace| {
            let named = trace.get().map(Trace::traceparent);
            if let Some(value) = named.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.insert(TRACERESPONSE, value);
            }
        });
    }

    fn log_failure(&self, method: &Method, took: Duration, response: &Response) {
        let Some(left_out) = self.core.app.failures.count(Instant::now()) else {
            return;
        };
        let log = || {
            let (path, status) = (self.path(), response.status().as_u16());
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
