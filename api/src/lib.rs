//! The HTTP API: queries, and writes that answer once the log has them.
//!
//! * [`server`]: from configuration to listening and draining; [`app`]: what the handlers share.
//! * [`routes`]: thin handlers, one file a domain.
//! * [`cache`]: a cache that the log keeps fresh; [`tail`]: the log's end of it.
//! * [`positions`]: reading one's own writes; [`error`]: problem details; [`trace`]: which request a line or an
//!   answer belongs to; [`metrics`], [`observer`]: how it does.

pub mod app;
pub mod cache;
pub mod error;
pub mod metrics;
pub mod observer;
pub mod positions;
pub mod routes;
pub mod server;
pub mod tail;
pub mod trace;
