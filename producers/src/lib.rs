//! Appending events to the log: the only way anything is written.
//!
//! * [`append`]: records to the broker, and what became of them; [`writer`]: events of one topic as such records;
//!   [`lane`], [`gathering`]: many single appends in few batches.
//! * [`emit`]: bulk appends for the command line; one file a domain with samples and importers: [`clicks`], [`orders`],
//!   [`users`], [`segments`], [`sales`].
//! * [`kafka`]: addresses and client settings; [`topics`]: topics as they have to be, [`brokers`]: who
//!   answers; both ask as `admin` does, which outlasts the loss of a broker; [`log_id`]: what tells one log from another;
//!   [`partition`]: Java's partitioner.
//! * [`clock`]: the one place where time and chance enter; [`metrics`]: counters for `/metrics`; [`trace`]: which
//!   request an event comes from; [`headers`]: reading them from a record.

mod admin;
pub mod append;
pub mod brokers;
pub mod clicks;
pub mod clock;
pub mod emit;
pub mod gathering;
pub mod headers;
pub mod kafka;
pub mod lane;
pub mod log_id;
pub mod metrics;
pub mod orders;
pub mod partition;
pub mod sales;
pub mod segments;
pub mod topics;
pub mod trace;
pub mod turns;
pub mod users;
pub mod writer;
