//! Errors as callers see them: `application/problem+json` (RFC 9457) with a stable `reason` for programs.

use std::{borrow::Cow, num::NonZeroU32};

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use processors::sales::Refused;
use producers::{
    trace::{Trace, TraceId},
    writer::AppendError,
};
use schemas::event::Fault;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::{cache::GetError, sale::Unsettled, segments, trace};

/// The type of a problem's body.
pub(crate) const PROBLEM: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/problem+json"),
);
/// Most problems are shorter: a refusal is to cost no second allocation.
const PROBLEM_BYTES: usize = 320;

/// Why a request was not fulfilled, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The request cannot be understood.
    BadRequest,
    /// There is nothing of this name.
    NotFound,
    /// Not with this method.
    MethodNotAllowed,
    /// There is another order of this uid.
    OrderExists,
    /// Somebody has reserved the item.
    ItemReserved,
    /// Somebody has bought the item.
    ItemSold,
    /// The user has bought and reserved as many as one may.
    UserLimit,
    /// Everything is bought.
    SoldOut,
    /// There is a segment of this name already.
    SegmentExists,
    /// No reservation has this code.
    CodeUnknown,
    /// The reservation has lapsed.
    CodeExpired,
    /// It was bought already.
    CodeUsed,
    /// The key came with another request before.
    KeyReused,
    /// More bytes than are read.
    TooLarge,
    /// Not JSON.
    NotJson,
    /// Understood, but not valid.
    Invalid,
    /// A fault of ours.
    Internal,
    /// The request took too long to come or to answer.
    Timeout,
    /// Too much is on its way to the log.
    Overloaded,
    /// This address or this user has asked too often.
    RateLimited,
    /// Not written.
    NotApplied,
    /// Perhaps written.
    OutcomeUnknown,
    /// The position that was asked for is not reached yet.
    NotCaughtUp,
    /// The database does not answer.
    DatabaseUnavailable,
    /// The broker does not answer.
    LogUnavailable,
}

impl Reason {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::OrderExists
            | Self::SegmentExists
            | Self::ItemReserved
            | Self::ItemSold
            | Self::UserLimit
            | Self::SoldOut
            | Self::CodeUnknown
            | Self::CodeExpired
            | Self::CodeUsed => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid | Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited => CROWDED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Timeout
            | Self::Overloaded
            | Self::NotApplied
            | Self::OutcomeUnknown
            | Self::NotCaughtUp
            | Self::DatabaseUnavailable
            | Self::LogUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// As answers and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::OrderExists => "order_exists",
            Self::ItemReserved => "item_reserved",
            Self::ItemSold => "item_sold",
            Self::UserLimit => "user_limit",
            Self::SoldOut => "sold_out",
            Self::SegmentExists => "segment_exists",
            Self::CodeUnknown => "code_unknown",
            Self::CodeExpired => "code_expired",
            Self::CodeUsed => "code_used",
            Self::KeyReused => "key_reused",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::Invalid => "invalid",
            Self::Internal => "internal",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::NotApplied => "not_applied",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::NotCaughtUp => "not_caught_up",
            Self::DatabaseUnavailable => "database_unavailable",
            Self::LogUnavailable => "log_unavailable",
        }
    }

    /// Whether `Retry-After` tells to send it again.
    pub fn passes(self) -> bool {
        let is_in_doubt = matches!(self, Self::OutcomeUnknown | Self::Timeout);
        let is_of_the_moment = matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | CROWDED);
        is_of_the_moment && !is_in_doubt
    }
}

/// Why a request was not fulfilled (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// The name of the status.
    #[schema(value_type = String)]
    title: &'static str,
    /// What is wrong, for people.
    #[schema(value_type = String)]
    detail: Cow<'static, str>,
    reason: Reason,
    /// What to name when asking the operator about it: it is in the logs.
    #[schema(value_type = String, pattern = "^[0-9a-f]{32}$")]
    #[serde(serialize_with = "as_text")]
    trace_id: TraceId,
    /// Every field that is not as it should be; only with `invalid`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<BadField>,
}

/// One field that is not as it should be.
#[derive(Debug, Serialize, ToSchema)]
struct BadField {
    /// Where: a path such as `payment.currency` or `items[2].price`; empty for the whole body.
    #[schema(examples("payment.currency"))]
    field: String,
    /// What is wrong, ending the sentence that the field begins.
    #[schema(examples("must be three letters, such as USD"))]
    message: String,
}

/// A request that was not fulfilled.
#[derive(Debug)]
pub struct ApiError {
    reason: Reason,
    /// Where it is not that of the reason.
    status: Option<StatusCode>,
    detail: Cow<'static, str>,
    faults: Vec<Fault>,
    cause: Option<Cause>,
}

/// Why a request failed, for the log.
#[derive(Debug, Clone)]
pub(crate) struct Cause(pub(crate) String);

impl ApiError {
    fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            status: None,
            detail: detail.into(),
            faults: Vec::new(),
            cause: None,
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| self.reason.status())
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::BadRequest, detail)
    }

    /// 404: there is nothing of this name.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::NotFound, detail)
    }

    /// 405: not with this method.
    pub fn method_not_allowed() -> Self {
        let detail = "this address does not know the method: see the Allow header";
        Self::new(Reason::MethodNotAllowed, detail)
    }

    /// 503: the request took too long to come or to answer.
    pub fn timeout() -> Self {
        let detail = "the request took too long: whether a write was done is not known";
        Self::new(Reason::Timeout, detail)
    }

    /// 409: there is another order of this uid.
    pub fn order_exists(uid: &str) -> Self {
        let detail = format!("order {uid} is there already, with other content");
        Self::new(Reason::OrderExists, detail)
    }

    /// 409: there is a segment of this name.
    pub fn segment_exists(slug: &str) -> Self {
        let detail = format!("there is a segment {slug} already");
        Self::new(Reason::SegmentExists, detail)
    }

    /// 404: there are no segments of these names.
    pub fn unknown_segments(slugs: &[String]) -> Self {
        let detail = format!("there is no segment {}", slugs.join(", "));
        Self::new(Reason::NotFound, detail)
    }

    /// 429: this address or this user, of whom so much may come in a second.
    pub fn rate_limited(of: &str, a_second: NonZeroU32) -> Self {
        let detail = format!("more than {a_second} requests a second of this {of}: slow down");
        Self::new(Reason::RateLimited, detail)
    }

    /// 413: more bytes than are read.
    pub fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::TooLarge, detail)
    }

    /// 415: not JSON.
    pub fn not_json() -> Self {
        Self::new(Reason::NotJson, "send the body as application/json")
    }

    /// 422: understood, but not valid; names every fault.
    pub fn invalid(faults: Vec<Fault>) -> Self {
        let detail = format!("{} fields are not as they should be", faults.len());
        let mut error = Self::new(Reason::Invalid, detail);
        error.faults = faults;
        error
    }

    /// 500: a fault of ours.
    pub fn internal() -> Self {
        let detail = "an error on our side; the server's own messages tell more";
        Self::new(Reason::Internal, detail)
    }

    /// 503: the log has it, and it counts for nothing.
    pub fn void() -> Self {
        let detail = "the request reached the log more than 30 s after it was sent, or a clock is wrong: `millrace doctor` compares them";
        Self::new(Reason::NotApplied, detail)
    }

    /// 503: there is no room for one more who watches the sale.
    pub fn too_many_listen() -> Self {
        let detail = "too many watch the sale here: GET /v1/sale says how it stands";
        Self::new(Reason::Overloaded, detail)
    }

    /// 503: the sale is not read yet.
    pub fn not_open() -> Self {
        Unsettled::NotOpen.into()
    }

    /// 503: the position that was asked for is not reached yet.
    pub fn not_caught_up() -> Self {
        let detail = "the position of Millrace-Min-Position is not reached yet";
        Self::new(Reason::NotCaughtUp, detail)
    }

    /// 503: the tables are yet to come to the position of the report.
    pub fn report_not_ready() -> Self {
        let detail = "the report is not done yet: see GET /report_check";
        Self::new(Reason::NotCaughtUp, detail)
    }

    /// 503: there is no room for one more who takes a report.
    pub fn too_many_reports() -> Self {
        let detail = "too many take reports here: come again";
        Self::new(Reason::Overloaded, detail)
    }

    /// 503: the broker does not answer.
    pub fn no_log() -> Self {
        Self::new(Reason::LogUnavailable, "the broker does not answer")
    }

    /// Nobody has looked at the log yet.
    pub fn not_looked() -> Self {
        let detail = "nothing has been seen of the log yet: /readyz says why if that lasts";
        Self::new(Reason::NotCaughtUp, detail)
    }

    /// 503: the database does not answer.
    pub fn no_database() -> Self {
        Self::new(Reason::DatabaseUnavailable, "the database does not answer")
    }
}

/// What a crowd gets from the sale: not applied, and it is the caller who should come less often.
pub const CROWDED: StatusCode = StatusCode::TOO_MANY_REQUESTS;

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (reason, detail) = match refused {
            Refused::NoSuchItem => (
                Reason::BadRequest,
                "the sale does not have so many items: see GET /v1/sale",
            ),
            Refused::ItemReserved => (
                Reason::ItemReserved,
                "somebody has reserved this item; it may become free again",
            ),
            Refused::ItemSold => (Reason::ItemSold, "this item is sold"),
            Refused::UserLimit => (
                Reason::UserLimit,
                "this user has bought and reserved as many items as one may in a sale",
            ),
            Refused::SoldOut => (
                Reason::SoldOut,
                "everything is sold; the next sale has new items",
            ),
            Refused::CodeUnknown => (Reason::CodeUnknown, "there is no reservation of this code"),
            Refused::CodeExpired => (
                Reason::CodeExpired,
                "the reservation has lapsed: check out again",
            ),
            Refused::CodeUsed => (Reason::CodeUsed, "this reservation was bought already"),
            Refused::KeyReused => (
                Reason::KeyReused,
                "this Idempotency-Key came with another item before: take another key",
            ),
        };
        Self::new(reason, detail)
    }
}

impl From<Unsettled> for ApiError {
    fn from(unsettled: Unsettled) -> Self {
        let detail = unsettled.to_string();
        match unsettled {
            Unsettled::NotOpen => Self::new(Reason::NotApplied, detail),
            Unsettled::NotApplied(error) => error.into(),
            Unsettled::Unknown => Self::new(Reason::OutcomeUnknown, detail),
            Unsettled::Overloaded => Self {
                status: Some(CROWDED),
                ..Self::new(Reason::Overloaded, detail)
            },
        }
    }
}

impl From<segments::Unsettled> for ApiError {
    fn from(unsettled: segments::Unsettled) -> Self {
        use segments::Unsettled;
        let detail = unsettled.to_string();
        match unsettled {
            Unsettled::NoDatabase => Self::new(Reason::NotApplied, detail),
            Unsettled::NotApplied(error) => error.into(),
            Unsettled::Void => Self::void(),
            Unsettled::KeyReused => Self::new(Reason::KeyReused, detail),
            Unsettled::Unknown => Self::new(Reason::OutcomeUnknown, detail),
            Unsettled::Overloaded => Self {
                status: Some(CROWDED),
                ..Self::new(Reason::Overloaded, detail)
            },
        }
    }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        let detail = error.to_string();
        match error {
            AppendError::Invalid(faults) => Self::invalid(faults),
            AppendError::TooLarge(_) => Self::too_large(detail),
            AppendError::Overloaded => Self::new(Reason::Overloaded, detail),
            AppendError::NotRegistered(_) | AppendError::NotWritten(_) => {
                Self::new(Reason::NotApplied, detail)
            }
            AppendError::Unknown(_) => Self::new(Reason::OutcomeUnknown, detail),
        }
    }
}

impl From<GetError> for ApiError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Late => Self::no_database(),
            GetError::Postgres(error) => Self::from_sqlx(&error),
        }
    }
}

impl ApiError {
    /// 503 or 500 for a failed query.
    pub fn from_sqlx(error: &sqlx::Error) -> Self {
        let failed = if projections::db::is_transient(error) {
            Self::no_database()
        } else {
            Self::internal()
        };
        Self {
            cause: Some(Cause(error.to_string())),
            ..failed
        }
    }
}

impl ApiError {
    /// Its reason, and the cause if there is one, for answers of another shape.
    pub(crate) fn why(self) -> (Reason, Option<Cause>) {
        (self.reason, self.cause)
    }

    /// The JSON of its problem, in a request of this trace.
    pub(crate) fn body(self, trace: &Trace) -> Vec<u8> {
        let status = self.status();
        let problem = Problem {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or_default(),
            detail: self.detail,
            reason: self.reason,
            trace_id: trace.id,
            errors: self.faults.into_iter().map(BadField::from).collect(),
        };
        let mut body = Vec::with_capacity(PROBLEM_BYTES);
        serde_json::to_writer(&mut body, &problem).expect("a problem is plain data");
        body
    }
}

impl IntoResponse for ApiError {
    fn into_response(mut self) -> Response {
        let (status, reason, cause) = (self.status(), self.reason, self.cause.take());
        let mut response = Response::new(self.body(&trace::current()).into());
        *response.status_mut() = status;
        // For whoever counts them.
        response.extensions_mut().insert(reason);
        if let Some(cause) = cause {
            response.extensions_mut().insert(cause);
        }
        let headers = response.headers_mut();
        let (content_type, problem) = PROBLEM;
        headers.insert(content_type, problem);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if reason.passes() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(1));
        }
        response
    }
}

fn as_text<S: Serializer>(trace_id: &TraceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(trace_id)
}

impl From<Fault> for BadField {
    fn from(Fault { field, message }: Fault) -> Self {
        Self { field, message }
    }
}
