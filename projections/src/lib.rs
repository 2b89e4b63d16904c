//! The tables that folds write and queries read; the only SQL of the system. Kafka is unknown here.
//!
//! * [`db`], [`pool`]: connections, and pools of them; [`projection`]: the list of projections, their tables and generations.
//! * [`checkpoints`]: how far a projection has come, and the compare-and-set that makes every batch count once.
//! * [`history`]: what a generation knows of the log that it was made from.
//! * [`generations`]: builds of a projection's tables beside each other, and the switch; [`builds`]: who is at it;
//!   [`rows`], [`keys`]: filling
//!   tables as a whole; [`compare`]: what is different in two of them.
//! * [`dead_letters`]: records that could not be folded; [`schema_ids`]: what the registry said of a schema id.
//! * One file a domain with what the fold needs, what it changes, and the queries: [`clicks`], [`orders`],
//!   [`users`], [`segments`], [`sales`], [`sale_attempts`]; [`sales_history`] has the queries of the last two,
//!   [`segment_reports`] what happened to memberships.

pub mod builds;
pub mod checkpoints;
pub mod clicks;
pub mod compare;
pub mod db;
pub mod dead_letters;
pub mod generations;
pub mod history;
pub mod keys;
pub mod orders;
pub mod pool;
pub mod projection;
pub mod rows;
pub mod sale_attempts;
pub mod sales;
pub mod sales_history;
pub mod schema_ids;
pub mod segment_reports;
pub mod segments;
pub mod server;
pub mod users;
