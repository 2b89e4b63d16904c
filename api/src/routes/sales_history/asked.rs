//! What is asked of the history of sales: which sale, and which page.

use std::{marker::PhantomData, sync::Arc};

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use projections::sales_history::{Attempt, Place, Sold, Standing};
use schemas::sales::{ITEMS_MAX, NotASaleId, SaleId};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};

use crate::{app::Core, document, error::ApiError};

/// What a name of a sale looks like; not each has a time.
const SALE_PATTERN: &str = "^[0-9]{8}T[0-9]{4}([0-9]{2})?Z$";
/// Rows of a page, unless told otherwise and at most.
const LIMIT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// The sale of an address. A name that is well written but of no time, such as the 31st of February, is that of no sale.
pub(super) struct Sale(Option<SaleId>);

impl Sale {
    /// The sale.
    ///
    /// # Errors
    /// 404 if there can be none of this name.
    pub(super) fn known(self) -> Result<SaleId, ApiError> {
        self.0.ok_or_else(Self::unknown)
    }

    /// 404.
    pub(super) fn unknown() -> ApiError {
        ApiError::not_found("nothing was requested in a sale of this name")
    }
}

impl FromRequestParts<Arc<Core>> for Sale {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, core: &Arc<Core>) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, core).await;
        let text = path.map_or_else(|_| String::new(), |Path(text)| text);
        if !is_well_written(&text) {
            return Err(ApiError::bad_request(NotASaleId.to_string()));
        }
        Ok(Self(text.parse().ok()))
    }
}

/// Whether a text is as [`SALE_PATTERN`] says.
fn is_well_written(text: &str) -> bool {
    let is_right = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        _ if at + 1 == text.len() => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    matches!(text.len(), 14 | 16) && text.bytes().enumerate().all(is_right)
}

impl IntoParams for Sale {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![document::part(json!({
            "name": "sale_id",
            "in": "path",
            "required": true,
            "description": "The sale: its start in UTC.",
            "schema": {"type": "string", "pattern": SALE_PATTERN},
            "example": "20261121T0900Z",
        }))]
    }
}

/// How the pages of a list go on.
pub(super) trait Order {
    /// The place of a row.
    type Place;
    /// A row.
    type Row;

    /// The place as the caller has it.
    fn place(row: &Self::Row) -> Value;

    /// Reads what the caller has.
    fn parse(text: &str) -> Option<Self::Place>;

    /// How a place looks, for the document.
    fn schema() -> Value;
}

/// A page of a list.
pub(super) struct Page<O: Order> {
    /// The last row of the page before.
    pub(super) after: Option<O::Place>,
    /// The most rows.
    pub(super) limit: i64,
    order: PhantomData<O>,
}

/// The rows of a page, and where the next one begins.
pub(super) struct Cut<R> {
    /// The rows.
    pub(super) rows: Vec<R>,
    /// What to ask for next; null at the end.
    pub(super) next: Value,
}

impl<O: Order> Page<O> {
    /// A page of rows of which one more was asked for than it has.
    pub(super) fn cut(&self, mut rows: Vec<O::Row>) -> Cut<O::Row> {
        let limit = usize::try_from(self.limit).expect("a page has at most a thousand");
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(O::place);
        Cut {
            rows,
            next: next.unwrap_or(Value::Null),
        }
    }
}

#[derive(Deserialize)]
struct Words {
    after: Option<String>,
    limit: Option<String>,
}

impl<O: Order> FromRequestParts<Arc<Core>> for Page<O> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, core: &Arc<Core>) -> Result<Self, ApiError> {
        let query = Query::<Words>::from_request_parts(parts, core).await;
        let Query(words) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
        let after = words.after.map(|text| {
            let wrong = || ApiError::bad_request("`after` has to be the `next` of the page before");
            O::parse(&text).ok_or_else(wrong)
        });
        let limit = words.limit.map(|text| {
            let limit = number(&text).filter(|limit| (1..=LIMIT_MAX).contains(limit));
            let wrong = || format!("`limit` has to be a whole number from 1 to {LIMIT_MAX}");
            limit.ok_or_else(|| ApiError::bad_request(wrong()))
        });
        Ok(Self {
            after: after.transpose()?,
            limit: limit.transpose()?.unwrap_or(LIMIT),
            order: PhantomData,
        })
    }
}

impl<O: Order> IntoParams for Page<O> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let part = |name, description, schema| {
            document::part(json!({
                "name": name, "in": "query", "required": false, "description": description,
                "schema": schema,
            }))
        };
        let limit = json!({
            "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT,
        });
        vec![
            part(
                "after",
                "The `next` of the page before; without it, the first page.",
                O::schema(),
            ),
            part("limit", "The most rows of the page.", limit),
        ]
    }
}

/// A whole number in plain digits.
fn number(text: &str) -> Option<i64> {
    let has_only_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| has_only_digits)
}

/// Sales, newest first.
pub(super) struct BySale;

impl Order for BySale {
    type Place = SaleId;
    type Row = Standing;

    fn place(row: &Standing) -> Value {
        json!(row.sale.id)
    }

    fn parse(text: &str) -> Option<SaleId> {
        // What is of no time comes last.
        let otherwise = SaleId::starting_at_ms(0);
        is_well_written(text).then(|| text.parse().unwrap_or(otherwise))
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": SALE_PATTERN})
    }
}

/// Items by their ids.
pub(super) struct ByItem;

impl Order for ByItem {
    type Place = i32;
    type Row = Sold;

    fn place(row: &Sold) -> Value {
        json!(row.item_id)
    }

    fn parse(text: &str) -> Option<i32> {
        let item_id = i32::try_from(number(text)?).ok()?;
        (0..ITEMS_MAX).contains(&item_id).then_some(item_id)
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 0, "maximum": ITEMS_MAX - 1})
    }
}

/// Attempts by their time and place.
pub(super) struct ByPlace;

/// Hexadecimal digits of a time, of a partition and of an offset.
const TIME_DIGITS: usize = 12;
const PARTITION_DIGITS: usize = 8;
const OFFSET_DIGITS: usize = 16;

impl Order for ByPlace {
    type Place = Place;
    type Row = Attempt;

    fn place(row: &Attempt) -> Value {
        let Place {
            at_ms,
            is_beside,
            partition,
            offset,
        } = row.place;
        let beside = u8::from(is_beside);
        json!(format!("{at_ms:012x}{beside}{partition:08x}{offset:016x}"))
    }

    fn parse(text: &str) -> Option<Place> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !text.bytes().all(is_hex) {
            return None;
        }
        let (time, rest) = text.split_at_checked(TIME_DIGITS)?;
        let (beside, rest) = rest.split_at_checked(1)?;
        let (partition, offset) = rest.split_at_checked(PARTITION_DIGITS)?;
        Some(Place {
            at_ms: i64::from_str_radix(time, 16).ok()?,
            is_beside: match beside {
                "0" => false,
                "1" => true,
                _ => return None,
            },
            partition: i32::from_str_radix(partition, 16).ok()?,
            offset: i64::from_str_radix(offset, 16)
                .ok()
                .filter(|_| offset.len() == OFFSET_DIGITS)?,
        })
    }

    fn schema() -> Value {
        // The first digits keep to what the numbers can be.
        json!({
            "type": "string",
            "pattern": "^[0-9a-f]{12}[01][0-7][0-9a-f]{7}[0-7][0-9a-f]{15}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_as_it_was() {
        for place in [
            Place::default(),
            Place {
                at_ms: 1_795_251_600_123,
                is_beside: true,
                partition: 7,
                offset: i64::MAX,
            },
        ] {
            let row = Attempt {
                place,
                kind: String::new(),
                user_id: None,
                item_id: None,
                verdict: String::new(),
                expires_at_ms: None,
                is_replayed: false,
            };
            let text = ByPlace::place(&row);
            assert_eq!(ByPlace::parse(text.as_str().unwrap()), Some(place));
        }
        let right = "0".repeat(37);
        assert!(ByPlace::parse(&right).is_some());
        for wrong in [
            &right[1..],
            "",
            &format!("{right}0"),
            &right.replace("00", "0A"),
        ] {
            assert!(ByPlace::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_sale_is_asked_for_by_a_name_that_looks_like_one() {
        for text in ["20261121T0900Z", "20261121T090030Z", "20260231T0900Z"] {
            assert!(is_well_written(text), "{text}");
            assert!(BySale::parse(text).is_some(), "{text}");
        }
        for text in [
            "",
            "now",
            "20261121T0900",
            "20261121t0900Z",
            "20261121T090Z",
            "2026112éT0900Z",
        ] {
            assert!(!is_well_written(text), "{text}");
            assert!(BySale::parse(text).is_none(), "{text}");
        }
    }
}
