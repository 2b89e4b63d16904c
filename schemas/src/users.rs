//! Users: the events of the topic `users`. Next in the story: `producers/src/users.rs`.

use std::sync::LazyLock;

use apache_avro::{Schema, schema::RecordSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    event::{Event, Fault},
    json,
    rules::{
        Field,
        Rule::{Text, UserId},
        check, user_id_fault,
    },
    topics::{Compatibility, Topic},
};

/// The topic; the key is the user's id.
pub static TOPIC: Topic = Topic {
    name: "users",
    partitions: 8,
    keyed: true,
    log_append_time: false,
    compatibility: Compatibility::BackwardTransitive,
    avsc: AVSC,
    schema: || &SCHEMA,
};

const AVSC: &str = include_str!("../avro/users.avsc");
static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::parse_str(AVSC).expect("users.avsc is read by a test"));
/// The first of its branches.
static PROFILE_SET: LazyLock<Schema> = LazyLock::new(|| Schema::Record(profile_set()));
/// The same for a user who is named elsewhere.
static PROFILE: LazyLock<Schema> = LazyLock::new(|| {
    let mut record = profile_set();
    record.fields.retain(|field| field.name != "user_id");
    Schema::Record(record)
});

/// The most that deeplink and promo message may take together, in bytes of UTF-8.
const PROFILE_BYTES_MAX: usize = 64 << 10;

/// What stands on the log of the users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserEvent {
    /// A user has this profile from now on.
    UserProfileSet(UserProfileSet),
    /// A user has none from now on.
    UserRemoved(UserRemoved),
}

/// The profile of a user is this from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)] // JSON is read straight into it as long as nothing is wrong.
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.users"))]
pub struct UserProfileSet {
    /// The user: 1 to 20 of A-Z, a-z, 0-9, _ and -.
    pub user_id: String,
    /// Where the app leads the user.
    pub deeplink: String,
    /// What the user is told.
    pub promo_message: String,
}

/// The user has no profile from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.users"))]
pub struct UserRemoved {
    /// The user: 1 to 20 of A-Z, a-z, 0-9, _ and -.
    pub user_id: String,
}

/// A profile without its user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Where the app leads the user.
    pub deeplink: String,
    /// What the user is told.
    pub promo_message: String,
}

impl UserEvent {
    /// Whose it is.
    pub fn user_id(&self) -> &str {
        match self {
            Self::UserProfileSet(set) => &set.user_id,
            Self::UserRemoved(removed) => &removed.user_id,
        }
    }
}

impl Event for UserEvent {
    const TOPIC: &'static Topic = &TOPIC;

    fn kind(&self) -> &'static str {
        match self {
            Self::UserProfileSet(_) => "UserProfileSet",
            Self::UserRemoved(_) => "UserRemoved",
        }
    }

    fn key(&self) -> Option<&str> {
        Some(self.user_id())
    }

    fn faults(&self) -> Vec<Fault> {
        match self {
            Self::UserProfileSet(set) => set.faults(),
            Self::UserRemoved(removed) => faults_of(&[("user_id", UserId(&removed.user_id))]),
        }
    }
}

impl UserProfileSet {
    /// Reads a profile with its user.
    ///
    /// # Errors
    /// Every fault of the JSON.
    pub fn read(value: Value) -> Result<Self, Vec<Fault>> {
        json::read_as(&PROFILE_SET, value, Self::faults)
    }

    /// What a profile with its user is, in JSON Schema.
    pub fn json_schema() -> Value {
        let [deeplink, promo_message] = fields("", "");
        let fields = [("user_id", UserId("")), deeplink, promo_message];
        json::schema(&PROFILE_SET, &[("UserProfileSet", &fields)])
    }

    /// Every rule that it breaks.
    pub fn faults(&self) -> Vec<Fault> {
        let [deeplink, promo_message] = fields(&self.deeplink, &self.promo_message);
        let mut faults = faults_of(&[("user_id", UserId(&self.user_id)), deeplink, promo_message]);
        if self.deeplink.len() + self.promo_message.len() > PROFILE_BYTES_MAX {
            faults.push(Fault::new("", too_long()));
        }
        faults
    }
}

impl Profile {
    /// Reads a profile of a user who is named elsewhere.
    ///
    /// # Errors
    /// Every fault of the JSON.
    pub fn read(value: Value) -> Result<Self, Vec<Fault>> {
        json::read_as(&PROFILE, value, |profile: &Self| {
            faults_of(&fields(&profile.deeplink, &profile.promo_message))
        })
    }

    /// What a profile is, in JSON Schema: types and sentences of `users.avsc`, and the rules. The length of both texts
    /// together is beyond its words.
    pub fn json_schema() -> Value {
        json::schema(&PROFILE, &[("UserProfileSet", &fields("", ""))])
    }

    /// Whether it is no longer than a profile may be.
    pub fn fits(&self) -> bool {
        self.deeplink.len() + self.promo_message.len() <= PROFILE_BYTES_MAX
    }

    /// The event that gives this profile to a user.
    pub fn set_for(self, user_id: String) -> UserProfileSet {
        UserProfileSet {
            user_id,
            deeplink: self.deeplink,
            promo_message: self.promo_message,
        }
    }
}

/// What keeps a text from being the id of a user.
pub fn id_fault(user_id: &str) -> Option<&'static str> {
    user_id_fault(user_id)
}

/// What is wrong with a profile that does not fit.
pub fn too_long() -> String {
    format!("deeplink and promo_message have more than {PROFILE_BYTES_MAX} bytes together")
}

fn faults_of(fields: &[Field<'_>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    check(fields, str::to_owned, &mut faults);
    faults
}

fn fields<'a>(deeplink: &'a str, promo_message: &'a str) -> [Field<'a>; 2] {
    [
        ("deeplink", Text(deeplink)),
        ("promo_message", Text(promo_message)),
    ]
}

fn profile_set() -> RecordSchema {
    match &*SCHEMA {
        Schema::Union(union) => match &union.variants()[0] {
            Schema::Record(record) => record.clone(),
            other => unreachable!("{other:?}: a test builds it"),
        },
        other => unreachable!("{other:?}: a test builds it"),
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::AvroSchema;
    use serde_json::json;

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
        let structs = [UserProfileSet::get_schema(), UserRemoved::get_schema()];
        assert_eq!(branches, structs.map(|schema| schema.canonical_form()));
    }

    #[test]
    fn an_id_has_one_to_twenty_letters_digits_lines_and_dashes() {
        for id in ["a", "0", "_", "-", "A-Za-z0-9_-", "x".repeat(20).as_str()] {
            assert_eq!(id_fault(id), None, "{id}");
        }
        for id in [
            "",
            " ",
            "a b",
            "é",
            "a/b",
            "a\n",
            "a\0",
            "x".repeat(21).as_str(),
        ] {
            assert!(id_fault(id).is_some(), "{id:?}");
        }
    }

    #[test]
    fn a_profile_has_two_texts_and_nothing_else() {
        let good = json!({"deeplink": "app://a", "promo_message": ""});
        let profile = Profile::read(good).unwrap();
        assert_eq!(
            (profile.deeplink.as_str(), profile.promo_message.as_str()),
            ("app://a", "")
        );
        let bad = json!({"deeplink": 1, "user_id": "a", "promo_message": "a\u{0}"});
        let faults = Profile::read(bad).unwrap_err();
        let faults: Vec<_> = faults.iter().map(Fault::to_string).collect();
        assert_eq!(
            faults,
            [
                "deeplink must be a string, not a number",
                "user_id is unknown",
                "promo_message must not have the character U+0000",
            ]
        );
    }

    #[test]
    fn the_texts_of_a_profile_have_a_length_together() {
        let of = |deeplink: usize, promo: usize| {
            let profile = Profile {
                deeplink: "x".repeat(deeplink),
                promo_message: "y".repeat(promo),
            };
            let fits = profile.fits();
            let faults = profile.set_for("ann".to_owned()).faults();
            assert_eq!(fits, faults.is_empty());
            fits
        };
        assert!(of(PROFILE_BYTES_MAX, 0) && of(1, PROFILE_BYTES_MAX - 1));
        assert!(!of(PROFILE_BYTES_MAX, 1));
    }

    #[test]
    fn every_fault_of_a_row_is_named() {
        let faults = UserProfileSet::read(json!({"user_id": "a b", "deeplink": ""})).unwrap_err();
        let faults: Vec<_> = faults.iter().map(Fault::to_string).collect();
        assert_eq!(
            faults,
            [
                "promo_message is missing",
                "user_id must be 1 to 20 of A-Z, a-z, 0-9, _ and -",
            ]
        );
    }
}
