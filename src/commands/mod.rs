//! The commands, one file each.

pub mod emit;
pub mod serve;
pub mod topics;
