//! Pages for people: one file a page, one line a page in [`PAGES`]. Templates, styles and scripts lie beside the code, as
//! they are sent, and go into the binary: no framework, no build step, nothing from elsewhere.
//!
//! A page is made by the server and works without its script; the script only spares loading it anew.

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use tracing::error;

use crate::{app::Core, error::ApiError};

pub mod assets;
mod format;
pub mod home;
pub mod log;
pub mod orders;
pub mod sale;
pub mod sale_shelf;

/// A page of a domain: served, and linked from every other.
pub struct Page {
    /// Where it is.
    pub path: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// What one finds there.
    pub about: &'static str,
    /// Who answers.
    pub serve: fn() -> MethodRouter<Arc<Core>>,
}

/// Something that is no page, linked from `/`.
pub struct Link {
    /// Where it is.
    pub path: &'static str,
    /// What one finds there.
    pub about: &'static str,
}

/// The pages beside `/`, one line a page.
#[rustfmt::skip]
pub const PAGES: &[Page] = &[
    Page { path: "/orders", name: "Orders", about: "An order, found by its uid, as its buyer would read it", serve: || get(orders::show) },
    Page { path: "/sale", name: "Sale", about: "The running flash sale, live: what is left, how fast it sells, when it ends", serve: || get(sale::show) },
    Page { path: "/log", name: "Log", about: "Every topic, and how far each projection has folded it", serve: || get(log::show) },
];

/// What else there is to look at, for programs and their authors.
#[rustfmt::skip]
pub const LINKS: &[Link] = &[
    Link { path: "/swagger/", about: "Every request of the API, to read and to try" },
    Link { path: "/openapi.json", about: "The same for programs: an OpenAPI document" },
    Link { path: "/v1/sales", about: "Sales that run or ran, as programs read them" },
    Link { path: "/v1/log", about: "How the log and the projections stand, as programs read it" },
    Link { path: "/livez", about: "Whether the process lives: a supervisor starts it again if this fails" },
    Link { path: "/readyz", about: "Whether it is at work, or the reasons why not: a load balancer asks here" },
    Link { path: "/metrics", about: "What is counted and measured, for Prometheus" },
];

/// The pages and what they are made of.
pub fn router() -> Router<Arc<Core>> {
    let start = Router::new()
        .route("/", get(home::show))
        .merge(assets::router());
    PAGES.iter().fold(start, |router, page| {
        router.route(page.path, (page.serve)())
    })
}

/// What a page may do: nothing but what comes from this server, no script or style in the text itself, no frame around
/// it, no form that leads elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The headers of every page. What it shows is of this moment, and its address is nobody else's business.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// What is away is looked for every second.
const TRY_AGAIN: (HeaderName, &str) = (header::RETRY_AFTER, "1");

/// A page as an answer.
pub fn answer(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) if status == StatusCode::SERVICE_UNAVAILABLE => {
            (status, HEADERS, [TRY_AGAIN], html).into_response()
        }
        Ok(html) => (status, HEADERS, html).into_response(),
        Err(error) => {
            error!(%error, "a page could not be made");
            ApiError::internal().into_response()
        }
    }
}
