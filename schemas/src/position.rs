//! A place on the log, and lists of them as they stand in `Millrace-Position` headers.

use std::{fmt, str::FromStr};

/// The most positions that a list may have: every partition of every topic, with room.
const POSITIONS_MAX: usize = 256;

/// The place of one record: `topic/partition@offset`, the topic by its full name on the broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The topic's full name.
    pub topic: String,
    /// The partition, from 0.
    pub partition: i32,
    /// The record's offset, from 0.
    pub offset: i64,
}

/// A text that is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a position: write topic/partition@offset, several with commas between")]
pub struct NotAPosition {
    text: String,
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let parse = || {
            let (topic, place) = text.trim().rsplit_once('/')?;
            let (partition, offset) = place.split_once('@')?;
            let position = Self {
                topic: topic.to_owned(),
                partition: digits(partition)?.parse().ok()?,
                offset: digits(offset)?.parse().ok()?,
            };
            is_topic_name(topic).then_some(position)
        };
        parse().ok_or_else(|| NotAPosition {
            text: text.chars().take(100).collect(),
        })
    }
}

/// Reads `topic/partition@offset[,…]`, the value of a `Millrace-Min-Position` header.
///
/// # Errors
/// [`NotAPosition`] with the part that is none; also for more than 256 of them.
pub fn parse_list(text: &str) -> Result<Vec<Position>, NotAPosition> {
    if text.split(',').count() > POSITIONS_MAX {
        return Err(NotAPosition {
            text: format!("a list of more than {POSITIONS_MAX} positions"),
        });
    }
    text.split(',').map(str::parse).collect()
}

/// The characters of Kafka's topic names.
fn is_topic_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty() && text.bytes().all(allowed)
}

/// Numbers here have neither sign nor space, unlike Rust's own.
fn digits(text: &str) -> Option<&str> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_it_is_written() {
        let text = "shop.orders/3@42";
        let position: Position = text.parse().unwrap();
        assert_eq!(position.to_string(), text);
        assert_eq!(
            (position.topic.as_str(), position.partition, position.offset),
            ("shop.orders", 3, 42)
        );
        assert_eq!(parse_list("a/0@1, b/7@9").unwrap().len(), 2);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "orders",
            "orders/1",
            "orders@1",
            "/1@1",
            "orders/-1@1",
            "orders/1@+1",
            "orders/1@",
            "orders/1@99999999999999999999",
            "orders/1@1,",
            "orders/1@1;orders/2@2",
        ] {
            assert!(parse_list(text).is_err(), "{text:?}");
        }
        assert!(parse_list(&["a/0@1"; 257].join(",")).is_err());
    }
}
