//! The HTTP API: queries, and writes that answer once the log has them.
//!
//! * [`doors`]: listening; [`server`]: the threads that serve, to the last answer; [`files`]: how many may be open; [`app`]: what the handlers share.
//! * [`routes`]: thin handlers, one file a domain.
//! * [`pages`]: what people see in a browser.
//! * [`sale`], [`segments`]: requests that the log decides, on their way to an answer; [`limiter`]: how often callers
//!   may ask.
//! * [`lookup`]: values by key; [`cache`]: where they are kept, and kept fresh by the log; [`tail`]: the log's end of it.
//! * [`document`]: what the routes say of themselves, as OpenAPI; [`swagger`]: the page that shows it.
//! * [`positions`]: reading one's own writes; [`error`]: problem details; [`trace`]: which request a line or an
//!   answer belongs to; [`metrics`], [`observer`], [`overview`]: how it does; [`history`]: whether the log
//!   is still the same.

pub mod app;
pub mod cache;
pub mod document;
pub mod doors;
pub mod error;
pub mod files;
pub mod history;
pub mod limiter;
pub mod lookup;
pub mod metrics;
pub mod observer;
pub mod overview;
mod pace;
pub mod pages;
pub mod positions;
pub mod reading;
pub mod routes;
pub mod sale;
pub mod segments;
mod sending;
pub mod server;
pub mod swagger;
pub mod tail;
pub mod trace;
