//! The whole against real servers: each test has a topic prefix, a database and processes of its own, and is named by
//! the promise it keeps. `make test` starts the servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![expect(
    unreachable_pub,
    reason = "a program has no outside: pub is what its other files use"
)]

mod browser;
mod cli;
mod clicks;
mod cuts;
mod doctor;
mod emit_sale;
mod emit_segments;
mod faults;
mod harness;
mod health;
mod judges;
mod log;
mod monitoring;
mod openapi;
mod orders;
mod pages;
mod positions;
mod proxy;
mod reference;
mod replay;
mod retry;
mod sale;
mod sales_history;
mod samples;
mod schemas;
mod segment_reports;
mod segments;
mod server;
mod together;
mod traces;
mod users;
mod world;
