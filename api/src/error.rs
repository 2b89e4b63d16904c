//! Errors as callers see them: `application/problem+json` (RFC 9457) with a stable `reason` for programs.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use problem_details::ProblemDetails;
use producers::writer::AppendError;
use schemas::event::Fault;
use serde::Serialize;
use tracing::warn;

use crate::{cache::GetError, trace};

/// A request that was not fulfilled.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    reason: &'static str,
    detail: String,
    faults: Vec<Fault>,
    retry_after_s: Option<u32>,
}

/// The reason of an answer that is a problem, for whoever counts them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reason(pub(crate) &'static str);

/// What a problem says beside RFC 9457's own members.
#[derive(Debug, Clone, Serialize)]
struct More {
    reason: &'static str,
    /// What to ask the operator about.
    trace_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
}

impl ApiError {
    fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            detail: detail.into(),
            faults: Vec::new(),
            retry_after_s: None,
        }
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 404: there is nothing of this name.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 405: not with this method.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this address does not know the method: see the Allow header",
        )
    }

    /// 503: the request took too long to come or to answer.
    pub fn timeout() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "timeout",
            "the request took too long: whether a write was done is not known",
        )
        .retry_after(1)
    }

    /// 409: there is another order of this uid.
    pub fn order_exists(uid: &str) -> Self {
        let detail = format!("order {uid} is there already, with other content");
        Self::new(StatusCode::CONFLICT, "order_exists", detail)
    }

    /// 413: more bytes than are read.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// 415: not JSON.
    pub fn not_json() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not_json",
            "send the body as application/json",
        )
    }

    /// 422: understood, but not valid; names every fault.
    pub fn invalid(faults: Vec<Fault>) -> Self {
        let detail = format!("{} fields are not as they should be", faults.len());
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
        error.faults = faults;
        error
    }

    /// 500: a fault of ours.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "an error on our side; the server's own messages tell more",
        )
    }

    /// 503: the position that was asked for is not reached yet.
    pub fn not_caught_up() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_caught_up",
            "the position of Millrace-Min-Position is not reached yet",
        )
        .retry_after(1)
    }

    /// 503: the database does not answer.
    pub fn no_database() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "database_unavailable",
            "the database does not answer",
        )
        .retry_after(1)
    }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        let detail = error.to_string();
        let unavailable =
            |reason| Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, detail.clone());
        match error {
            AppendError::Invalid(faults) => Self::invalid(faults),
            AppendError::TooLarge(_) => Self::too_large(detail),
            AppendError::Overloaded => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).retry_after(1)
            }
            AppendError::NotRegistered(_) | AppendError::NotWritten(_) => {
                unavailable("not_applied").retry_after(1)
            }
            AppendError::Unknown(_) => unavailable("outcome_unknown"),
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
        warn!(%error, "a query failed");
        if projections::db::is_transient(error) {
            return Self::no_database();
        }
        Self::internal()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let more = More {
            reason: self.reason,
            trace_id: trace::current().id.to_string(),
            errors: self.faults,
        };
        let mut response = ProblemDetails::from_status_code(self.status)
            .with_detail(self.detail)
            .with_extensions(more)
            .into_response();
        response.extensions_mut().insert(Reason(self.reason));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
