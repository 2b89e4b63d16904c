//! What a field has to be beyond its type. A record lists its fields with their rules once: events are checked by that
//! list, and the API's document tells callers what it says.

use serde_json::{Value, json};

use crate::event::Fault;

/// The longest key, in characters: index pages of Postgres hold no long ones.
const KEY_CHARS_MAX: usize = 100;
/// The longest id of a user, in characters.
const USER_ID_CHARS_MAX: usize = 20;
/// Postgres has no text with this character.
const NO_NUL: &str = "must not have the character U+0000";

/// What a field has to be, and what it is.
#[derive(Debug, Clone, Copy)]
pub enum Rule<'a> {
    /// Any text that Postgres can keep.
    Text(&'a str),
    /// Text with more in it than white space.
    Filled(&'a str),
    /// Text that something is found by: filled, not long, without control characters.
    Key(&'a str),
    /// The id of a user.
    UserId(&'a str),
    /// Text with an @.
    Email(&'a str),
    /// Three letters.
    Currency(&'a str),
    /// Any number.
    Number(i64),
    /// A number of at least 0.
    NotNegative(i64),
    /// A list of at least one item.
    Items {
        /// How many there are.
        length: usize,
        /// How many there may be.
        max: usize,
    },
}

/// A field by its name.
pub type Field<'a> = (&'static str, Rule<'a>);

/// Notes the faults of a record; `path` makes the name of a field its path.
pub fn check(fields: &[Field<'_>], path: impl Fn(&str) -> String, faults: &mut Vec<Fault>) {
    for (name, rule) in fields {
        if let Some(message) = rule.fault() {
            faults.push(Fault::new(path(name), message));
        }
    }
}

impl Rule<'_> {
    /// What is wrong, ending the sentence that the field begins.
    pub fn fault(self) -> Option<String> {
        let message = match self {
            Self::Text(text) if text.contains('\0') => NO_NUL,
            Self::Filled(text) => filled_fault(text)?,
            Self::Key(text) => key_fault(text)?,
            Self::UserId(text) => user_id_fault(text)?,
            Self::Email(text) => email_fault(text)?,
            Self::Currency(text) if !is_currency(text) => "must be three letters, such as USD",
            Self::NotNegative(..0) => "must not be negative",
            Self::Items { length: 0, .. } => "must have at least one item",
            Self::Items { length, max } if length > max => {
                return Some(format!("must have at most {max} items"));
            }
            _ => return None,
        };
        Some(message.to_owned())
    }

    /// The rule in the words of JSON Schema.
    pub fn json_schema(self) -> Value {
        // Engines differ in what \s is; this is what Rust calls white space, and U+0000, which may not stand anywhere.
        let blank = r"\x00\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";
        let control = r"\x00-\x1f\x7f-\x9f";
        match self {
            Self::Text(_) => json!({"pattern": r"^[^\x00]*$"}),
            Self::Filled(_) => json!({
                "minLength": 1,
                "pattern": format!(r"^[^\x00]*[^{blank}][^\x00]*$"),
            }),
            Self::Key(_) => json!({
                "minLength": 1,
                "maxLength": KEY_CHARS_MAX,
                "pattern": format!("^[^{control}]*[^{control}{blank}][^{control}]*$"),
            }),
            Self::UserId(_) => {
                json!({"pattern": format!("^[A-Za-z0-9_-]{{1,{USER_ID_CHARS_MAX}}}$")})
            }
            Self::Email(_) => json!({"minLength": 1, "pattern": r"^[^\x00]*@[^\x00]*$"}),
            Self::Currency(_) => {
                json!({"minLength": 3, "maxLength": 3, "pattern": "^[A-Za-z]{3}$"})
            }
            Self::Number(_) => json!({}),
            Self::NotNegative(_) => json!({"minimum": 0}),
            Self::Items { max, .. } => json!({"minItems": 1, "maxItems": max}),
        }
    }
}

fn filled_fault(text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        return Some("must not be empty");
    }
    text.contains('\0').then_some(NO_NUL)
}

/// What keeps a text from being a key.
pub fn key_fault(text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        return Some("must not be empty");
    }
    if text.chars().count() > KEY_CHARS_MAX {
        return Some("must have at most 100 characters");
    }
    let has_control = text.chars().any(char::is_control);
    has_control.then_some("must not have control characters")
}

/// What keeps a text from being the id of a user.
pub fn user_id_fault(text: &str) -> Option<&'static str> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let is_id = (1..=USER_ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_known);
    (!is_id).then_some("must be 1 to 20 of A-Z, a-z, 0-9, _ and -")
}

fn email_fault(text: &str) -> Option<&'static str> {
    let no_at = || (!text.contains('@')).then_some("must have an @");
    filled_fault(text).or_else(no_at)
}

fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|b| b.is_ascii_alphabetic())
}
