//! What the document says of users: profiles, and the answers of a look-up, whose shapes are older than all others.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use schemas::users::{Profile, UserProfileSet};
use serde_json::{Value, json};
use utoipa::{
    IntoResponses, PartialSchema, ToSchema,
    openapi::{RefOr, Response, Schema},
};

use crate::{document, error::Reason};

/// A profile, as the document describes it: types and rules are those of the event.
pub(super) struct UserProfile;

impl PartialSchema for UserProfile {
    fn schema() -> RefOr<Schema> {
        let mut schema = Profile::json_schema();
        schema["examples"] =
            json!([{"deeplink": "shop://sale/7", "promo_message": "10 % off today"}]);
        document::part(schema)
    }
}

impl ToSchema for UserProfile {}

/// A profile and whose it is, as the document describes it.
pub(super) struct User;

impl PartialSchema for User {
    fn schema() -> RefOr<Schema> {
        document::part(UserProfileSet::json_schema())
    }
}

impl ToSchema for User {}

/// The answers of a look-up, whose shapes are older than the others'.
pub(super) struct Answers;

impl IntoResponses for Answers {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [
            answer(200, "The profile.", &["ok:cache", "ok:postgres"], &[]),
            answer(
                400,
                "This is not the id of a user.",
                &["invalid user_id"],
                &[Reason::BadRequest],
            ),
            answer(404, "This user has no profile.", &["not found"], &[]),
            answer(
                500,
                "Postgres did not answer in time.",
                &["internal error"],
                &[Reason::Internal],
            ),
            answer(
                503,
                "Nothing can be said now.",
                &[],
                &[Reason::NotCaughtUp, Reason::Timeout],
            ),
        ]
        .into()
    }
}

/// The answer with this code: in the older shape with these messages, as a problem for these reasons.
fn answer(
    code: u16,
    about: &str,
    messages: &[&str],
    reasons: &[Reason],
) -> (String, RefOr<Response>) {
    let cache_control = json!({"schema": {"type": "string", "enum": ["no-store"]}});
    let mut answer = json!({"description": "", "headers": {"Cache-Control": cache_control}});
    if let [reason, ..] = reasons {
        answer = document::answer(reason.status(), reasons);
    }
    let problems = answer["description"].as_str().unwrap_or_default();
    answer["description"] = format!("{about}\n\n{problems}").trim_end().into();
    if !messages.is_empty() {
        answer["content"]["application/json"] = json!({"schema": shape(code, messages)});
    }
    (code.to_string(), document::part(answer))
}

/// The shape of an answer with this code, which has a profile only if the code is 200.
fn shape(code: u16, messages: &[&str]) -> Value {
    let is_found = code == StatusCode::OK.as_u16();
    let mut shape = match is_found {
        true => UserProfileSet::json_schema(),
        false => json!({"type": "object", "properties": {}, "required": []}),
    };
    let hits: &[bool] = if is_found { &[false, true] } else { &[false] };
    let metadata = json!({
        "type": "object",
        "properties": {
            "timestamp": {
                "type": "string",
                "format": "date-time",
                "description": "When this was answered, to the second.",
            },
            "version": {"type": "string", "enum": ["v1"]},
        },
        "required": ["timestamp", "version"],
        "additionalProperties": false,
    });
    let about = match is_found {
        true => "A profile, and where it comes from.",
        false => "Why there is no profile.",
    };
    shape["description"] = about.into();
    shape["additionalProperties"] = false.into();
    for (name, part) in [
        ("code", json!({"type": "integer", "enum": [code]})),
        ("message", json!({"type": "string", "enum": messages})),
        (
            "cache_hit",
            json!({
                "type": "boolean",
                "enum": hits,
                "description": "Whether the profile comes from memory.",
            }),
        ),
        ("metadata", metadata),
    ] {
        shape["properties"][name] = part;
        let required = shape["required"].as_array_mut();
        required.expect("a list, as above").push(name.into());
    }
    shape
}
