//! Reading the log: pure folds, and the runtime that applies them exactly once.
//!
//! * One file a domain with its pure fold: [`clicks`], [`orders`], [`users`], [`segments`], [`sales`],
//!   [`sale_attempts`]; [`fold`] says what a fold is.
//! * [`consumer`]: records from Kafka in batches; [`record`]: what a batch holds; [`interpret`]: from bytes to valid
//!   events, or the reason why not.
//! * [`runtime`]: the loop from batch to commit; [`watermarks`]: how far it has come, for those who wait;
//!   [`status`]: what it is doing, for people; [`alarm`]: when bad records are many; [`guard`]: whether the log is still
//!   the one that was applied; [`stall`]: whether what is behind moves.
//! * [`replay`]: tables made anew from the whole log, beside those that are read; the switch, and the comparison.
//! * [`retry`]: dead letters that are folded after all.
//! * [`inspect`], [`lag`], [`readable`]: looking into the log, at the distance to its end, and whether it can be read.

pub mod alarm;
pub mod clicks;
pub mod consumer;
pub mod fold;
pub mod guard;
pub mod inspect;
pub mod interpret;
pub mod lag;
pub mod orders;
pub mod readable;
pub mod record;
pub mod replay;
pub mod retry;
pub mod runtime;
pub mod sale_attempts;
pub mod sales;
pub mod segments;
pub mod stall;
pub mod status;
pub mod users;
pub mod watermarks;
