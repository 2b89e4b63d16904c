//! The flash sale: the events of the topic `sales`, and the names of sales and reservations. Rules are in
//! [`crate::sale_rules`], refusals that needed no log in [`crate::sale_attempts`]. Next in the story:
//! `producers/src/sales.rs`.

use std::{fmt, str::FromStr, sync::LazyLock};

use apache_avro::Schema;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::{Builder, Uuid, Variant};

use crate::{
    datum::Datum,
    event::{Event, Fault},
    topics::{Compatibility, Topic},
};

/// The topic: one partition, since its order decides; stamped by the broker, since its time decides too.
pub static TOPIC: Topic = Topic {
    name: "sales",
    partitions: 1,
    keyed: false,
    log_append_time: true,
    compatibility: Compatibility::BackwardTransitive,
    avsc: AVSC,
    schema: || &SCHEMA,
};

const AVSC: &str = include_str!("../avro/sales.avsc");
static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::parse_str(AVSC).expect("sales.avsc is read by a test"));

/// No sale has more items; their ids are below.
pub const ITEMS_MAX: i32 = 10_000;
/// The longest idempotency key, in characters.
pub const KEY_CHARS_MAX: usize = 255;
/// The first millisecond of the year 10000, beyond which RFC 3339 has no name for a time.
const TIME_BEFORE_MS: i64 = 253_402_300_800_000;
/// More rules than anybody sets. Whoever claims to have seen more would make every process wait for them.
const RULES_SEEN_MAX: i64 = 1_000_000;

/// What stands on the log of the sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaleEvent {
    /// Somebody wants to reserve an item.
    CheckoutRequested(CheckoutRequested),
    /// Somebody wants to buy what is reserved.
    PurchaseRequested(PurchaseRequested),
    /// A process marks a place.
    Barrier(Barrier),
}

/// A user wants to reserve an item of the sale that the time of this record falls into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.sales"))]
pub struct CheckoutRequested {
    /// The user, at least 0.
    pub user_id: i64,
    /// The item, below [`ITEMS_MAX`].
    pub item_id: i32,
    /// By the appender's clock, milliseconds since 1970-01-01T00:00:00Z.
    #[cfg_attr(test, avro(with = || Schema::TimestampMillis))]
    pub requested_at: i64,
    /// Next offset of `sale-rules` that the appender had read.
    pub rules_seen: i64,
    /// Makes the code one that nobody guesses.
    pub nonce: i64,
    /// Idempotency key.
    pub key: Option<String>,
}

/// Somebody wants to buy what is reserved under a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.sales"))]
pub struct PurchaseRequested {
    /// The reservation's code.
    #[cfg_attr(test, avro(with = || Schema::Uuid(apache_avro::schema::UuidSchema::String)))]
    pub code: Code,
    /// By the appender's clock, milliseconds since 1970-01-01T00:00:00Z.
    #[cfg_attr(test, avro(with = || Schema::TimestampMillis))]
    pub requested_at: i64,
    /// Next offset of `sale-rules` that the appender had read.
    pub rules_seen: i64,
    /// Tells the appender its own request.
    pub nonce: i64,
    /// Idempotency key.
    pub key: Option<String>,
}

/// A process that has read the log so far marks the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.sales"))]
pub struct Barrier {
    /// Tells the process its own barrier.
    pub nonce: i64,
}

impl SaleEvent {
    /// The number by which the appender knows its own record.
    pub fn nonce(&self) -> i64 {
        match self {
            Self::CheckoutRequested(checkout) => checkout.nonce,
            Self::PurchaseRequested(purchase) => purchase.nonce,
            Self::Barrier(barrier) => barrier.nonce,
        }
    }

    /// The idempotency key, if it came with one.
    pub fn idempotency_key(&self) -> Option<&str> {
        match self {
            Self::CheckoutRequested(checkout) => checkout.key.as_deref(),
            Self::PurchaseRequested(purchase) => purchase.key.as_deref(),
            Self::Barrier(_) => None,
        }
    }
}

impl Event for SaleEvent {
    const TOPIC: &'static Topic = &TOPIC;

    fn kind(&self) -> &'static str {
        match self {
            Self::CheckoutRequested(_) => "CheckoutRequested",
            Self::PurchaseRequested(_) => "PurchaseRequested",
            Self::Barrier(_) => "Barrier",
        }
    }

    fn key(&self) -> Option<&str> {
        None
    }

    /// A process that starts reads a million of them before it can serve.
    fn read(mut datum: Datum<'_>) -> Option<Self> {
        let event = match datum.long()? {
            0 => Self::CheckoutRequested(CheckoutRequested {
                user_id: datum.long()?,
                item_id: datum.int()?,
                requested_at: datum.long()?,
                rules_seen: datum.long()?,
                nonce: datum.long()?,
                key: datum.text_or_null()?.map(str::to_owned),
            }),
            1 => Self::PurchaseRequested(PurchaseRequested {
                code: datum.text()?.parse().ok()?,
                requested_at: datum.long()?,
                rules_seen: datum.long()?,
                nonce: datum.long()?,
                key: datum.text_or_null()?.map(str::to_owned),
            }),
            2 => Self::Barrier(Barrier {
                nonce: datum.long()?,
            }),
            _ => return None,
        };
        datum.end(event)
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let (requested_at, rules_seen, key) = match self {
            Self::CheckoutRequested(checkout) => {
                faults.extend(user_fault(checkout.user_id));
                faults.extend(item_fault(checkout.item_id));
                (checkout.requested_at, checkout.rules_seen, &checkout.key)
            }
            Self::PurchaseRequested(purchase) => {
                (purchase.requested_at, purchase.rules_seen, &purchase.key)
            }
            Self::Barrier(_) => return faults,
        };
        faults.extend(time_fault("requested_at", requested_at));
        if !(0..=RULES_SEEN_MAX).contains(&rules_seen) {
            faults.push(Fault::new("rules_seen", "must be an offset of sale-rules"));
        }
        if key.as_ref().is_some_and(|key| !is_key(key)) {
            let message = format!("must be 1 to {KEY_CHARS_MAX} visible ASCII characters");
            faults.push(Fault::new("key", message));
        }
        faults
    }
}

pub(crate) fn user_fault(user_id: i64) -> Option<Fault> {
    (user_id < 0).then(|| Fault::new("user_id", "must not be negative"))
}

pub(crate) fn item_fault(item_id: i32) -> Option<Fault> {
    let message = || format!("must be 0 to {}", ITEMS_MAX - 1);
    (!(0..ITEMS_MAX).contains(&item_id)).then(|| Fault::new("item_id", message()))
}

pub(crate) fn time_fault(field: &str, at_ms: i64) -> Option<Fault> {
    let message = "must be a time from 1970 to 9999, in milliseconds";
    (!(0..TIME_BEFORE_MS).contains(&at_ms)).then(|| Fault::new(field, message))
}

/// Whether a text may be an idempotency key.
pub fn is_key(text: &str) -> bool {
    (1..=KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The name of a sale: its start, as `20261121T0900Z`, or `20261121T090030Z` where a sale does not begin with a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SaleId {
    starts_at_ms: i64,
}

/// A text that names no sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sale is named by its start in UTC, such as 20261121T0900Z")]
pub struct NotASaleId;

impl SaleId {
    /// The sale that starts at this time, which is a whole second between the years 1970 and 9999.
    pub fn starting_at_ms(starts_at_ms: i64) -> Self {
        Self { starts_at_ms }
    }

    /// When it starts, milliseconds since 1970-01-01T00:00:00Z.
    pub fn starts_at_ms(self) -> i64 {
        self.starts_at_ms
    }
}

impl fmt::Display for SaleId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(time) = Timestamp::from_millisecond(self.starts_at_ms) else {
            return write!(out, "{}", self.starts_at_ms);
        };
        let is_minute = self.starts_at_ms % 60_000 == 0;
        let format = if is_minute {
            "%Y%m%dT%H%MZ"
        } else {
            "%Y%m%dT%H%M%SZ"
        };
        write!(out, "{}", time.strftime(format))
    }
}

impl FromStr for SaleId {
    type Err = NotASaleId;

    fn from_str(text: &str) -> Result<Self, NotASaleId> {
        let parts = (text.len(), text.get(..8), text.get(9..13), text.get(13..15));
        let (date, minute, second) = match parts {
            (14, Some(date), Some(minute), _) => (date, minute, "00"),
            (16, Some(date), Some(minute), Some(second)) => (date, minute, second),
            _ => return Err(NotASaleId),
        };
        let (Some("T"), Some("Z")) = (text.get(8..9), text.get(text.len() - 1..)) else {
            return Err(NotASaleId);
        };
        let time: Timestamp = format!("{date}T{minute}{second}Z")
            .parse()
            .map_err(|_| NotASaleId)?;
        let id = Self::starting_at_ms(time.as_millisecond());
        // One name a sale.
        if id.starts_at_ms < 0 || id.to_string() != text {
            return Err(NotASaleId);
        }
        Ok(id)
    }
}

impl Serialize for SaleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A reservation's code: a UUID of version 8 that names the sale and the record that asked for it, and keeps a secret.
///
/// 36 bits: start of the sale, in seconds; 30 bits: the record's offset; 56 bits: the request's nonce. Both numbers are
/// cut off at the left: within a sale, no two records share their last 30 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(Uuid);

const OFFSET_BITS: u32 = 30;
const NONCE_BITS: u32 = 56;
/// What UUIDs have of their own in the last eight bytes and the two before.
const VARIANT_BITS: u32 = 2;
const VERSION_BITS: u32 = 4;
const LAST_BITS: u32 = 64 - VARIANT_BITS;
const MIDDLE_BITS: u32 = 16 - VERSION_BITS;

/// What a code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeParts {
    /// The sale.
    pub sale: SaleId,
    /// The last 30 bits of the offset of the checkout.
    pub offset: u32,
    /// The last 56 bits of the nonce of the checkout.
    pub secret: u64,
}

impl Code {
    /// The code of the reservation that the record at `offset` asked for.
    pub fn new(sale: SaleId, offset: i64, nonce: i64) -> Self {
        let cut = |number: i64, bits: u32| u128::from(number.cast_unsigned() & ((1 << bits) - 1));
        let seconds = cut(sale.starts_at_ms / 1_000, 36);
        let payload = seconds << (OFFSET_BITS + NONCE_BITS)
            | cut(offset, OFFSET_BITS) << NONCE_BITS
            | cut(nonce, NONCE_BITS);
        let last = payload & ((1 << LAST_BITS) - 1);
        let middle = payload >> LAST_BITS & ((1 << MIDDLE_BITS) - 1);
        let first = payload >> (LAST_BITS + MIDDLE_BITS);
        let bits = first << (64 + 16) | middle << 64 | last;
        Self(Builder::from_custom_bytes(bits.to_be_bytes()).into_uuid())
    }

    /// What it says; none if it is no code of ours.
    pub fn parts(self) -> Option<CodeParts> {
        if (self.0.get_variant(), self.0.get_version_num()) != (Variant::RFC4122, 8) {
            return None;
        }
        let bits = self.0.as_u128();
        let last = bits & ((1 << LAST_BITS) - 1);
        let middle = bits >> 64 & ((1 << MIDDLE_BITS) - 1);
        let first = bits >> (64 + 16);
        let payload = first << (LAST_BITS + MIDDLE_BITS) | middle << LAST_BITS | last;
        let seconds = i64::try_from(payload >> (OFFSET_BITS + NONCE_BITS)).ok()?;
        let offset = payload >> NONCE_BITS & ((1 << OFFSET_BITS) - 1);
        let secret = payload & ((1 << NONCE_BITS) - 1);
        Some(CodeParts {
            sale: SaleId::starting_at_ms(seconds * 1_000),
            offset: u32::try_from(offset).ok()?,
            secret: u64::try_from(secret).ok()?,
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl FromStr for Code {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(Self)
    }
}

// As text in every format: people read the log with tools of their own.
impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = Uuid::encode_buffer();
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut text))
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = Code;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a UUID")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Code, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::AvroSchema;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_structs_are_what_the_schema_says() {
        let Schema::Union(union) = &*SCHEMA else {
            panic!("{SCHEMA:?}");
        };
        let branches: Vec<_> = union
            .variants()
            .iter()
            .map(Schema::canonical_form)
            .collect();
        let structs = [
            CheckoutRequested::get_schema(),
            PurchaseRequested::get_schema(),
            Barrier::get_schema(),
        ];
        assert_eq!(branches, structs.map(|schema| schema.canonical_form()));
    }

    #[test]
    fn a_sale_has_one_name() {
        for (starts_at_ms, name) in [
            (0, "19700101T0000Z"),
            (1_795_251_600_000, "20261121T0900Z"),
            (1_795_251_605_000, "20261121T090005Z"),
        ] {
            let id = SaleId::starting_at_ms(starts_at_ms);
            assert_eq!(id.to_string(), name);
            assert_eq!(name.parse(), Ok(id));
        }
        for text in [
            "",
            "2026",
            "20261121T0900",
            "20261121T090000Z",
            "20261121t0900Z",
            "20261121 0900Z",
            "20261121T0900z",
            "20261121T2400Z",
            "20261321T0900Z",
            "20261121T090060Z",
            "+0261121T0900Z",
            "19691231T2300Z",
            "2026112éT090Z",
        ] {
            assert_eq!(text.parse::<SaleId>(), Err(NotASaleId), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_code_says_what_it_was_made_of(seconds in 0_i64..1 << 36, offset in 0_i64.., nonce: i64) {
            let sale = SaleId::starting_at_ms(seconds * 1_000);
            let code = Code::new(sale, offset, nonce);
            prop_assert_eq!(code.parts(), Some(CodeParts {
                sale,
                offset: (offset & 0x3fff_ffff).try_into().unwrap(),
                secret: (nonce & 0xff_ffff_ffff_ffff).cast_unsigned(),
            }));
            prop_assert_eq!(code.to_string().parse(), Ok(code));
            prop_assert_eq!(code.to_string().len(), 36);
        }
    }
}
