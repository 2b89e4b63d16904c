//! Events as people would send them.

use serde_json::{Value, json};

/// The model order.
pub fn model() -> Value {
    serde_json::from_str(include_str!("../../data/model.json")).unwrap()
}

/// The model order with another uid.
pub fn order(uid: &str) -> Value {
    with(model(), "/order_uid", json!(uid))
}

/// A copy with another value at this place.
pub fn with(mut event: Value, pointer: &str, value: Value) -> Value {
    *event.pointer_mut(pointer).unwrap() = value;
    event
}

/// A click on this banner, received at this time (RFC 3339).
pub fn click(banner_id: i64, received_at: &str) -> Value {
    let at: jiff::Timestamp = received_at.parse().unwrap();
    json!({ "banner_id": banner_id, "received_at": at.as_millisecond() })
}
