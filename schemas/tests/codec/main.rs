//! What the codec promises: events come back as they were written, other versions are read or refused as a whole,
//! and no bytes, whoever wrote them, bring a process down or make it take memory that they do not account for.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod hostile;
mod round_trips;
mod support;
mod versions;
