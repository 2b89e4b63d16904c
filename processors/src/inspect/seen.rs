//! A record as it stands on the log, for people and for programs.

use base64::{Engine, prelude::BASE64_STANDARD};
use producers::headers::headers;
use rdkafka::{Message, message::BorrowedMessage};
use schemas::{
    inspect::{Datum, Inspected, millis},
    position::Position,
};
use serde::{Serialize, Serializer};

use crate::record::{Raw, valid_time};

/// A record as it stands on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The topic's full name.
    pub topic: String,
    /// Where it stands.
    pub partition: i32,
    /// Where it stands.
    pub offset: i64,
    /// When it was written, milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The headers; what is not UTF-8 in their names is U+FFFD.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The value.
    pub value: Option<Vec<u8>>,
}

impl Seen {
    pub(super) fn new(record: &BorrowedMessage<'_>) -> Self {
        let headers = headers(record).map(|(name, value)| {
            let name = String::from_utf8_lossy(name).into_owned();
            (name, value.map(<[u8]>::to_vec))
        });
        Self {
            topic: record.topic().to_owned(),
            partition: record.partition(),
            offset: record.offset(),
            timestamp_ms: record.timestamp().to_millis(),
            key: record.key().map(<[u8]>::to_vec),
            headers: headers.collect(),
            value: record.payload().map(<[u8]>::to_vec),
        }
    }

    /// As the folds get it, but for what its headers say.
    pub fn raw(&self) -> Raw<'_> {
        Raw {
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: valid_time(self.timestamp_ms),
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            trace: None,
            is_ours: false,
            is_stamped: false,
        }
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
        }
    }

    /// When it was written, in RFC 3339.
    pub fn time(&self) -> Option<String> {
        self.timestamp_ms.and_then(millis)
    }

    /// The record for programs, to be serialized: with its decoded value, or the reason and the bytes.
    pub fn for_programs<'a>(&'a self, inspected: &'a Inspected) -> ForPrograms<'a> {
        let (value, error) = match &inspected.datum {
            Ok(datum) => (datum.as_ref(), None),
            Err(error) => (None, Some(error.as_str())),
        };
        let base64 = |bytes: &Vec<u8>| BASE64_STANDARD.encode(bytes);
        let key = self.key.as_deref().map(str::from_utf8);
        ForPrograms {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp: self.time(),
            key: key.and_then(Result::ok),
            key_bytes: match key {
                Some(Err(_)) => self.key.as_ref().map(base64),
                _ => None,
            },
            headers: HeaderMap(&self.headers),
            schema_id: inspected.schema_id,
            value,
            error,
            bytes: match error {
                Some(_) => self.value.as_ref().map(base64),
                None => None,
            },
        }
    }
}

/// A record as programs get it.
#[derive(Serialize)]
pub struct ForPrograms<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<String>,
    key: Option<&'a str>,
    /// A key that is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_bytes: Option<String>,
    headers: HeaderMap<'a>,
    schema_id: Option<u32>,
    value: Option<&'a Datum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

struct HeaderMap<'a>(&'a [(String, Option<Vec<u8>>)]);

impl Serialize for HeaderMap<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.0.iter().map(|(name, value)| {
            let text = value.as_deref().map(String::from_utf8_lossy);
            (name, text)
        }))
    }
}

/// Bytes as base64.
pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Bytes for people: sixteen a line, their offset, hexadecimal and as text.
pub fn hex_dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain: String = line
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            })
            .collect();
        text.push_str(&format!(
            "{:08x}  {:<47}  {plain}\n",
            index * 16,
            hex.join(" ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            topic: "orders".to_owned(),
            partition: 3,
            offset: 41,
            timestamp_ms: Some(5),
            key: Some(b"uid".to_vec()),
            headers: vec![
                ("ce_id".to_owned(), Some(b"x".to_vec())),
                ("n".to_owned(), None),
            ],
            value: Some(b"hello".to_vec()),
        }
    }

    #[test]
    fn an_undecodable_record_keeps_its_bytes() {
        let inspected = Inspected {
            schema_id: None,
            datum: Err("no frame".to_owned()),
        };
        assert_eq!(
            serde_json::to_string(&seen().for_programs(&inspected)).unwrap(),
            r#"{"topic":"orders","partition":3,"offset":41,"timestamp":"1970-01-01T00:00:00.005Z","key":"uid","headers":{"ce_id":"x","n":null},"schema_id":null,"value":null,"error":"no frame","bytes":"aGVsbG8="}"#
        );
    }

    #[test]
    fn a_key_that_is_no_text_is_base64() {
        let inspected = Inspected {
            schema_id: None,
            datum: Ok(None),
        };
        let seen = Seen {
            key: Some(vec![0xff]),
            value: None,
            ..seen()
        };
        let json = serde_json::to_value(seen.for_programs(&inspected)).unwrap();
        assert_eq!(json["key"], serde_json::Value::Null);
        assert_eq!(json["key_bytes"], "/w==");
        assert_eq!(json.get("bytes"), None);
    }

    #[test]
    fn bytes_are_dumped_sixteen_a_line() {
        assert_eq!(
            hex_dump(b"\0\x01abcdefghijklmnop"),
            "00000000  00 01 61 62 63 64 65 66 67 68 69 6a 6b 6c 6d 6e  ..abcdefghijklmn\n\
             00000010  6f 70                                            op\n"
        );
    }
}
