//! Events, their Avro schemas and the wire format: what may stand on the log.
//!
//! * [`event`]: what every event has; one file a domain: [`clicks`], [`orders`], [`users`], [`segments`], [`sales`]
//!   with [`sale_rules`], [`sale_attempts`] and [`sale_items`].
//! * [`topics`]: the list of topics, the log's table of contents.
//! * [`codec`]: bytes to events and back, in the Confluent wire format; [`datum`]: a shorter way; [`hostile`]: whose
//!   schemas are not trusted.
//! * [`registry`]: the client of a Confluent-compatible schema registry.
//! * [`rules`]: what a field has to be beyond its type.
//! * [`json`]: JSON from people, checked against the Avro schema, every fault named; [`inspect`]: JSON for people.
//! * [`position`]: a place on the log, `topic/partition@offset`.

pub mod clicks;
pub mod codec;
pub mod datum;
pub mod event;
pub mod hostile;
pub mod inspect;
pub mod json;
pub mod orders;
pub mod position;
pub mod registry;
pub mod rules;
pub mod sale_attempts;
pub mod sale_items;
pub mod sale_rules;
pub mod sales;
pub mod segments;
pub mod topics;
pub mod users;
