//! The OpenAPI document of the API. Each handler is described where it stands, by `#[utoipa::path]`; here is what many
//! of them share. `/openapi.json` serves it, and `/swagger` shows it ([`crate::swagger`]).

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    http::{StatusCode, header},
    response::IntoResponse,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::{
    IntoResponses, OpenApi, PartialSchema, ToSchema,
    openapi::{RefOr, Response, Schema},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    error::{CROWDED, Problem, Reason},
    routes,
};

/// The document as it is sent: it does not change while the process runs.
static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = routes::document().to_json();
    text.expect("a document has only texts, numbers and lists")
        .into()
});

/// What the document begins with; the routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Millrace",
        description = ABOUT,
        version = env!("CARGO_PKG_VERSION"),
        // Without the identifier, which Swagger UI would make a link to another host.
        license(name = "MIT OR Apache-2.0"),
    ),
    servers((url = "/", description = "The process that serves this document.")),
    components(schemas(Problem, Position))
)]
pub struct Head;

const ABOUT: &str = "\
Users and their segments, orders, banner clicks and a flash sale. The log is the truth: a write is answered once the log has it, and everything that \
is read is computed from the log. What the sale answers is decided by the log's order, the same in every process.

**Reading your own writes.** A write says where it stands on the log: `Millrace-Position: orders/3@41`. A read that is \
sent this as `Millrace-Min-Position` reflects the write, whichever process answers; without the header it is rarely \
more than a moment behind.

**Errors** are `application/problem+json` (RFC 9457) with a `reason` for programs. An address that is not listed here \
answers 404 `not_found`; a method that is not listed answers 405 `method_not_allowed`, and `Allow` has those that are. \
Every `GET` can be asked as `HEAD`.

**503** is what a caller sees when a server behind the API is away. `not_applied`: nothing was written, send it again. \
`outcome_unknown`: it may have been written, as the acknowledgement was lost; an order or a profile can be sent again \
without harm, and so can a request of the sale or of the segments with its `Idempotency-Key`; a click may then count twice.";

/// The route of the document.
pub fn router<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S> {
    OpenApiRouter::new().routes(routes!(openapi))
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "service",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object))
)]
async fn openapi() -> impl IntoResponse {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, TEXT.clone())
}

/// A part of the document that is written as it will stand there.
///
/// # Panics
/// If OpenAPI has no such part; the document is made by a test.
pub fn part<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("a part of an OpenAPI document")
}

/// A place on the log, as `Millrace-Position` has it.
pub struct Position;

impl PartialSchema for Position {
    fn schema() -> RefOr<Schema> {
        part(json!({
            "type": "string",
            "description": "A place on the log: topic/partition@offset.",
            "pattern": "^[A-Za-z0-9._-]+/[0-9]+@[0-9]+$",
            "examples": ["orders/3@41"],
        }))
    }
}

impl ToSchema for Position {}

macro_rules! problems {
    ($($(#[$about:meta])* $name:ident: $($reason:ident),+;)+) => {$(
        $(#[$about])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                describe(&[$(Reason::$reason),+])
            }
        }
    )+};
}

problems! {
    /// Of everything that reads Postgres or a cache.
    ReadProblems: BadRequest, Internal, NotCaughtUp, DatabaseUnavailable, Timeout;
    /// Of everything that appends to the log.
    WriteProblems: BadRequest, Internal, NotApplied, OutcomeUnknown, Overloaded, Timeout;
    /// Of everything that takes a body.
    BodyProblems: TooLarge;
    /// Of a body that has to say that it is JSON.
    NotJson: NotJson;
    /// Of a body with rules of its own.
    Invalid: Invalid;
    /// Of a name that nothing has.
    NotFound: NotFound;
    /// Of an order whose uid is taken.
    OrderExists: OrderExists;
    /// Of everything that the log of the sale decides.
    SaleProblems: BadRequest, Internal, NotApplied, OutcomeUnknown, Timeout;
    /// Of a checkout.
    CheckoutRefused: ItemReserved, ItemSold, UserLimit, SoldOut, KeyReused;
    /// Of a purchase.
    PurchaseRefused: CodeUnknown, CodeExpired, CodeUsed;
    /// Of what is read from the sale that runs.
    SaleReadProblems: BadRequest, Internal, NotCaughtUp, NotApplied, Timeout;
    /// Of everything that the projection of the segments decides.
    SegmentProblems: BadRequest, Internal, NotApplied, OutcomeUnknown, Timeout;
    /// Of a segment that is to be created.
    SegmentExists: SegmentExists;
    /// Of a key that came with another request.
    KeyReused: KeyReused;
    /// Of everything about reports.
    ReportProblems: BadRequest, Internal, DatabaseUnavailable, LogUnavailable, Timeout;
    /// Of a report that is taken.
    ReportFileProblems: Internal, DatabaseUnavailable, NotCaughtUp, Overloaded, Timeout;
    /// Of reads whose callers are counted.
    LimitedReads: RateLimited;
    /// Of how the log stands.
    LogProblems: Internal, NotCaughtUp, Timeout;
    /// Of the events of the sale that runs.
    SaleEventsProblems: Internal, Overloaded, Timeout;
}

/// Of a crowd at the sale.
pub struct Crowded;

impl IntoResponses for Crowded {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let crowded = answer(CROWDED, &[Reason::Overloaded]);
        [(CROWDED.as_str().to_owned(), part(crowded))].into()
    }
}

/// Of requests that the log decides, and whose callers are counted.
pub struct Limited;

impl IntoResponses for Limited {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let limited = answer(CROWDED, &[Reason::Overloaded, Reason::RateLimited]);
        [(CROWDED.as_str().to_owned(), part(limited))].into()
    }
}

/// An answer for each status that these reasons have.
fn describe(reasons: &[Reason]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<String, Vec<Reason>> = BTreeMap::new();
    for reason in reasons {
        let status = reason.status().as_str().to_owned();
        by_status.entry(status).or_default().push(*reason);
    }
    let answers = by_status.into_iter();
    answers
        .map(|(status, reasons)| (status, part(answer(reasons[0].status(), &reasons))))
        .collect()
}

/// What an address or a method that is in no operation gets: no operation can list it.
pub fn outside() -> [(String, RefOr<Response>); 2] {
    [
        ("UnknownAddress", Reason::NotFound),
        ("UnknownMethod", Reason::MethodNotAllowed),
    ]
    .map(|(name, reason)| (name.to_owned(), part(answer(reason.status(), &[reason]))))
}

/// The answer of one status.
pub(crate) fn answer(status: StatusCode, reasons: &[Reason]) -> Value {
    let lines = reasons
        .iter()
        .map(|reason| format!("* `{}`: {}", reason.name(), about(*reason)));
    let description = lines.collect::<Vec<_>>().join("\n");
    let mut headers =
        json!({"Cache-Control": {"schema": {"type": "string", "enum": ["no-store"]}}});
    if reasons.iter().any(|reason| reason.passes()) {
        headers["Retry-After"] = json!({
            "description": "After so many seconds it may be tried again; not with `outcome_unknown` or `timeout`.",
            "schema": {"type": "integer", "minimum": 1},
        });
    }
    if reasons.contains(&Reason::RateLimited) {
        for (name, description) in [
            (
                "RateLimit",
                "How much more may be asked now (r), of the limits that the request was counted for.",
            ),
            (
                "RateLimit-Policy",
                "How much may be asked (q) in so many seconds (w).",
            ),
        ] {
            headers[name] = json!({"description": description, "schema": {"type": "string"}});
        }
    }
    if reasons.contains(&Reason::MethodNotAllowed) {
        headers["Allow"] = json!({
            "description": "The methods that the address knows, with commas between.",
            "schema": {"type": "string"},
        });
    }
    let has_errors = reasons.contains(&Reason::Invalid);
    let narrowed = json!({
        "type": "object",
        "properties": {
            "status": {"type": "integer", "enum": [status.as_u16()]},
            "reason": {"type": "string", "enum": reasons},
        },
        "required": if has_errors { &["errors"][..] } else { &[] },
    });
    json!({
        "description": description,
        "headers": headers,
        "content": {"application/problem+json": {
            "schema": {"allOf": [{"$ref": "#/components/schemas/Problem"}, narrowed]},
        }},
    })
}

/// What a reason means to a caller.
fn about(reason: Reason) -> &'static str {
    match reason {
        Reason::BadRequest => "the request cannot be understood; `detail` says why.",
        Reason::NotFound => "there is nothing of this name.",
        Reason::MethodNotAllowed => {
            "the address does not know the method; `Allow` has those it knows."
        }
        Reason::OrderExists => "there is an order of this uid already, with other content.",
        Reason::ItemReserved => "somebody has reserved the item.",
        Reason::ItemSold => "somebody has bought the item.",
        Reason::UserLimit => "the user has bought and reserved as many as one may.",
        Reason::SoldOut => "everything is bought.",
        Reason::SegmentExists => "there is a segment of this name already.",
        Reason::CodeUnknown => "no reservation has this code.",
        Reason::CodeExpired => "the reservation has lapsed.",
        Reason::CodeUsed => "it was bought already.",
        Reason::KeyReused => "the `Idempotency-Key` came with another request before.",
        Reason::TooLarge => {
            "the body has more than 1 MiB, the event more than a record holds, or a profile more than 64 KiB."
        }
        Reason::NotJson => "the body says that it is something else than `application/json`.",
        Reason::Invalid => {
            "understood, but not valid; `errors` has every bad field. Nothing was written."
        }
        Reason::Internal => "an error on our side.",
        Reason::Timeout => "the request took too long; whether a write was done is not known.",
        Reason::Overloaded => {
            "too much is under way, too many listen, or too many take reports. Nothing was written."
        }
        Reason::RateLimited => {
            "this address or this user has asked too often; `Retry-After` says when to come again."
        }
        Reason::NotApplied => "the log did not get it. Nothing was written.",
        Reason::OutcomeUnknown => {
            "the log may have got it: its acknowledgement was lost, or its verdict did not come in time."
        }
        Reason::NotCaughtUp => {
            "the position of `Millrace-Min-Position`, or that of the report, was not reached in time."
        }
        Reason::DatabaseUnavailable => "the database does not answer.",
        Reason::LogUnavailable => "the broker does not answer.",
    }
}
