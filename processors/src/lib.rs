//! Reading the log: pure folds, and the runtime that applies them exactly once.
//!
//! * One file a domain with its pure fold: [`clicks`], [`orders`], [`sales`], [`sale_attempts`]; [`fold`] says what a
//!   fold is.
//! * [`consumer`]: records from Kafka in batches; [`record`]: what a batch holds; [`interpret`]: from bytes to valid
//!   events, or the reason why not.
//! * [`runtime`]: the loop from batch to commit; [`watermarks`]: how far it has come, for those who wait;
//!   [`status`]: what it is doing, for people; [`alarm`]: when bad records are many.
//! * [`inspect`], [`lag`]: looking into the log and at the distance to its end.

pub mod alarm;
pub mod clicks;
pub mod consumer;
pub mod fold;
pub mod inspect;
pub mod interpret;
pub mod lag;
pub mod orders;
pub mod record;
pub mod runtime;
pub mod sale_attempts;
pub mod sales;
pub mod status;
pub mod watermarks;
