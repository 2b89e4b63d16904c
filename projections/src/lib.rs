//! The tables that folds write and queries read; the only SQL of the system. Kafka is unknown here.
//!
//! * [`db`], [`pool`]: connections, and pools of them; [`projection`]: the list of projections, their tables and generations.
//! * [`checkpoints`]: how far a projection has come, and the compare-and-set that makes every batch count once.
//! * [`dead_letters`]: records that could not be folded; [`schema_ids`]: what the registry said of a schema id.
//! * One file a domain with what the fold needs, what it changes, and the queries: [`clicks`], [`orders`],
//!   [`sales`], [`sale_attempts`]; [`sales_history`] has the queries of the last two.

pub mod checkpoints;
pub mod clicks;
pub mod db;
pub mod dead_letters;
pub mod orders;
pub mod pool;
pub mod projection;
pub mod sale_attempts;
pub mod sales;
pub mod sales_history;
pub mod schema_ids;
pub mod server;
