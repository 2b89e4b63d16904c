//! Constant answers for `make bench`: what HTTP alone can do in this process, through the same router and middleware
//! as everything else. They exist only with the hidden flag `--bench-routes`.

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use bytes::Bytes;
use processors::sales::Refused;
use producers::{clock, trace::Trace};

use super::{
    clicks::NO_STORE,
    orders::{JSON, body},
    users,
};
use crate::error::{ApiError, PROBLEM};

/// The order whose JSON `/bench/order` answers.
const MODEL: &str = include_str!("../../../data/model.json");

/// The user whose profile `/bench/user` answers.
const USER: &str = r#""user_id":"bench00000000000001","deeplink":"shop://sale/7","promo_message":"10 % off everything today""#;

/// The segments that `/bench/segments` answers.
const SEGMENTS: &str = r#"{"user_id":1000001,"segments":[{"slug":"A","expires_at":null},{"slug":"B","expires_at":null}]}"#;

/// `/bench/click` answers as a click does that has nothing to wait for, `/bench/order`, `/bench/user` and `/bench/segments` as
/// look-ups that have nothing to look up, `/bench/refusal` as a checkout does that is refused by what is always so. No routes unless they are wanted.
pub fn router<S: Clone + Send + Sync + 'static>(wanted: bool) -> Router<S> {
    if !wanted {
        return Router::new();
    }
    let model = serde_json::from_str(MODEL).expect("the model order is an order");
    let order = body(&model);
    let refusal = Bytes::from(ApiError::from(Refused::ItemSold).body(&Trace::start()));
    let user = users::body(USER.as_bytes(), true, clock::now_ms());
    Router::new()
        .route(
            "/bench/user",
            get(async move || ([JSON, NO_STORE], user.clone())),
        )
        .route(
            "/bench/segments",
            get(async || ([JSON, NO_STORE], SEGMENTS)),
        )
        .route(
            "/bench/refusal",
            post(async move || (StatusCode::CONFLICT, [PROBLEM, NO_STORE], refusal.clone())),
        )
        .route(
            "/bench/click",
            get(async || (StatusCode::NO_CONTENT, [NO_STORE])),
        )
        .route("/bench/order", get(async move || ([JSON], order.clone())))
}
