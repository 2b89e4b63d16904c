//! The HTTP API: queries, and writes that answer once the log has them.
//!
//! * [`doors`]: listening; [`server`]: the threads that serve, to the last answer; [`files`]: how many may be open; [`app`]: what the handlers share.
//! * [`routes`]: thin handlers, one file a domain.
//! * [`pages`]: what people see in a browser.
//! * [`cache`]: a cache that the log keeps fresh; [`tail`]: the log's end of it.
//! * [`document`]: what the routes say of themselves, as OpenAPI; [`swagger`]: the page that shows it.
//! * [`positions`]: reading one's own writes; [`error`]: problem details; [`trace`]: which request a line or an
//!   answer belongs to; [`metrics`], [`observer`]: how it does.

pub mod app;
pub mod cache;
pub mod document;
pub mod doors;
pub mod error;
pub mod files;
pub mod metrics;
pub mod observer;
pub mod pages;
pub mod positions;
pub mod routes;
pub mod sale;
mod sending;
pub mod server;
pub mod swagger;
pub mod tail;
pub mod trace;
