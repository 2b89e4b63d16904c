//! The flash sale: reserving, buying, and how it stands. Before this: `api/src/sale.rs`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Query, State, rejection::QueryRejection},
    http::{HeaderName, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use processors::sales::{Decision, Passed, Refused, Verdict};
use producers::{clock, writer::Context};
use schemas::{
    event::Event,
    sale_attempts::{CheckoutRefused, Refusal},
    sale_items::{image_path, item_name},
    sales::{Code, ITEMS_MAX, KEY_CHARS_MAX, SaleEvent, SaleId, is_key},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use utoipa::{
    IntoParams, ToSchema,
    openapi::path::{Parameter, ParameterIn},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::Core,
    document::{self, Crowded, Position, PurchaseRefused, SaleProblems, SaleReadProblems},
    error::ApiError,
    positions::{self, MinPositions},
    sale::{
        RefusedHere, Settled, Unsettled,
        stands::{SaleStands, time},
    },
    trace,
};

/// Until when an item is reserved.
const EXPIRES_AT: HeaderName = HeaderName::from_static("millrace-expires-at");
/// Whether the answer is that of an earlier request with the same key.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEY: &str = "idempotency-key";

/// Where a crowd comes to reserve.
pub const CHECKOUT: &str = "/checkout";
/// Where it comes to buy.
pub const PURCHASE: &str = "/purchase";

/// The routes of the sale.
pub fn router() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(checkout))
        .routes(routes!(purchase))
        .routes(routes!(running))
}

/// The query of a checkout.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// The user.
    #[param(minimum = 0, example = 7)]
    user_id: i64,
    /// The item.
    #[param(minimum = 0, maximum = 9999, example = 42)]
    item_id: i64,
}

/// Reserve an item
///
/// The answer is the reservation's code: `POST /purchase` buys with it until `Millrace-Expires-At`. The log decides,
/// in its order; a checkout that cannot succeed any more may be refused without it.
#[utoipa::path(
    post, path = "/checkout", tag = "sale", params(Wanted, Key),
    responses(
        (
            status = 200, description = "Reserved: the code.", body = String, content_type = "text/plain",
            headers(
                ("Millrace-Expires-At" = String, description = "When the reservation lapses (RFC 3339)."),
                ("Millrace-Position" = Position, description = "The request's place on the log."),
                ("Idempotency-Replayed" = String, description = "`true` if this is the answer of an earlier request with the same key."),
            ),
        ),
        document::CheckoutRefused, SaleProblems, Crowded,
    )
)]
async fn checkout(
    State(core): State<Arc<Core>>,
    query: Result<Query<Wanted>, QueryRejection>,
    Key(key): Key,
) -> Result<Response, ApiError> {
    let Query(Wanted { user_id, item_id }) =
        query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    if user_id < 0 {
        return Err(ApiError::bad_request("user_id must not be negative"));
    }
    let item_id = i32::try_from(item_id)
        .ok()
        .filter(|id| (0..ITEMS_MAX).contains(id));
    let Some(item_id) = item_id else {
        let detail = format!("item_id must be 0 to {}", ITEMS_MAX - 1);
        return Err(ApiError::bad_request(detail));
    };
    let sale = &core.app.sale;
    if key.is_none() {
        let now_ms = clock::now_ms();
        if let Some(refused) = sale.refusal(user_id, item_id, now_ms) {
            return Err(refuse(&core, user_id, item_id, refused, now_ms));
        }
    }
    settle(&core, "checkout", sale.checkout(user_id, item_id, key)).await
}

/// Notes a refusal that needed no log.
fn refuse(core: &Core, user_id: i64, item_id: i32, refused: RefusedHere, now_ms: i64) -> ApiError {
    core.attempts.note(CheckoutRefused {
        user_id,
        item_id,
        reason: refused.reason,
        sale_started_at: refused.sale.starts_at_ms(),
        decided_at_offset: refused.next_offset,
        requested_at: now_ms,
    });
    let by_log = match refused.reason {
        Refusal::ItemReserved => Refused::ItemReserved,
        Refusal::ItemSold => Refused::ItemSold,
        Refusal::UserLimit => Refused::UserLimit,
        Refusal::SoldOut | Refusal::Other => Refused::SoldOut,
    };
    core.app.metrics.sale.count_by_board(refused.reason);
    by_log.into()
}

/// The query of a purchase.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ByCode {
    /// The reservation's code.
    #[param(format = "uuid", example = "01957a3e-0000-8000-8000-000000000000")]
    code: String,
}

/// What was bought.
#[derive(Debug, Serialize, ToSchema)]
struct Bought {
    /// The sale.
    #[schema(value_type = String, examples("20261121T0900Z"))]
    sale_id: SaleId,
    /// The item.
    #[schema(minimum = 0, maximum = 9_999)]
    item_id: i32,
    /// What it is called.
    #[schema(examples("Amber Walnut Lamp"))]
    item_name: String,
    /// Where its picture is, at this host.
    #[schema(examples("/sale/images/20261121T0900Z/7.svg"))]
    image_url: String,
    /// Who had reserved it.
    #[schema(minimum = 0)]
    user_id: i64,
}

/// Buy what is reserved
#[utoipa::path(
    post, path = "/purchase", tag = "sale", params(ByCode, Key),
    responses(
        (
            status = 200, description = "Bought.", body = Bought,
            headers(
                ("Millrace-Position" = Position, description = "The request's place on the log."),
                ("Idempotency-Replayed" = String, description = "`true` if this is the answer of an earlier request with the same key."),
            ),
        ),
        PurchaseRefused, SaleProblems, Crowded,
    )
)]
async fn purchase(
    State(core): State<Arc<Core>>,
    query: Result<Query<ByCode>, QueryRejection>,
    Key(key): Key,
) -> Result<Response, ApiError> {
    let Query(ByCode { code }) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let code: Code = code
        .parse()
        .map_err(|_| ApiError::bad_request("code must be a UUID: the answer of POST /checkout"))?;
    settle(&core, "purchase", core.app.sale.purchase(code, key)).await
}

/// Lets the log decide.
async fn settle(
    core: &Core,
    request: &'static str,
    event: SaleEvent,
) -> Result<Response, ApiError> {
    let began = Instant::now();
    let app = &core.app;
    let metrics = &app.metrics.sale;
    let context = Context {
        trace: Some(trace::current()),
    };
    let settled = app.sale.settle(&core.sale_queue, event, context).await;
    if matches!(settled, Err(Unsettled::Unknown)) {
        metrics.count(request, "outcome_unknown", "nobody");
    }
    let Settled { passed, offset } = settled?;
    metrics
        .settle_seconds
        .observe(began.elapsed().as_secs_f64());
    let Passed::Decided(decision) = passed else {
        metrics.count(request, "void", "log");
        return Err(ApiError::void());
    };
    metrics.count(request, decision.verdict.name(), "log");
    let mut response = answer(&decision);
    let headers = response.headers_mut();
    let position = app.sale.position(offset);
    headers.insert(positions::POSITION, positions::header(&position));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if decision.is_replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn answer(decision: &Decision) -> Response {
    match decision.verdict {
        Verdict::Reserved {
            code,
            expires_at_ms,
        } => {
            let expires_at = HeaderValue::try_from(time(expires_at_ms).to_string())
                .expect("a time is plain ASCII");
            ([(EXPIRES_AT, expires_at)], code.to_string()).into_response()
        }
        Verdict::Purchased { item_id, user_id } => Json(Bought {
            sale_id: decision.sale,
            item_id,
            item_name: item_name(decision.sale, item_id),
            image_url: image_path(decision.sale, item_id),
            user_id,
        })
        .into_response(),
        Verdict::Refused(refused) => ApiError::from(refused).into_response(),
    }
}

/// The running sale
///
/// From memory, as the log has it so far.
#[utoipa::path(
    get, path = "/v1/sale", tag = "sale", params(MinPositions),
    responses((status = 200, description = "How it stands.", body = SaleStands), SaleReadProblems)
)]
async fn running(
    State(core): State<Arc<Core>>,
    min: MinPositions,
) -> Result<Json<SaleStands>, ApiError> {
    let app = &core.app;
    let places = min.of(app, SaleEvent::TOPIC);
    let deadline = Instant::now() + app.limits.wait;
    let progress = app.sale.progress();
    app.passed(progress, SaleEvent::TOPIC, &places, deadline)
        .await?;
    let stock = app.sale.stock(clock::now_ms());
    stock
        .map(|stock| Json(stock.into()))
        .ok_or_else(ApiError::not_open)
}

/// The key by which a request is known when it comes again.
pub(super) struct Key(pub(super) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut values = parts.headers.get_all(KEY).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return match parts.headers.contains_key(KEY) {
                true => Err(ApiError::bad_request("give one Idempotency-Key")),
                false => Ok(Self(None)),
            };
        };
        match value.to_str() {
            Ok(key) if is_key(key) => Ok(Self(Some(key.to_owned()))),
            _ => Err(ApiError::bad_request(format!(
                "Idempotency-Key must be 1 to {KEY_CHARS_MAX} visible ASCII characters"
            ))),
        }
    }
}

impl IntoParams for Key {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![document::part(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "A request that comes again with the same key is answered as it was the first time; of a user, \
                until the end of the sale; of a code, until the end of the sale after its own.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        }))]
    }
}
