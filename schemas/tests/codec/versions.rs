//! Other versions of a schema are read or refused as a whole.

use crate::support::*;
use apache_avro::{Schema, to_value, types::Value};
use proptest::prelude::*;
use schemas::{
    clicks::BannerClicked,
    codec::{DecodeError, Decoder, LearnError},
    event::{Event, Fault},
    orders::OrderPlaced,
    registry::Registry,
    sales::SaleEvent,
    topics::{Compatibility, Topic},
};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// An event whose schema has grown: `note` came later, and `weight` was called `grams` before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ParcelSent {
    id: i64,
    note: String,
    weight: Option<i64>,
}

static PARCELS: Topic = Topic {
    name: "parcels",
    partitions: 1,
    keyed: false,
    log_append_time: false,
    compatibility: Compatibility::FullTransitive,
    avsc: "",
    schema: || &PARCEL_SCHEMA,
};

static PARCEL_SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    parcel(
        r#"{"name": "id", "type": "long"},
           {"name": "note", "type": "string", "default": "none"},
           {"name": "weight", "type": ["null", "long"], "default": null, "aliases": ["grams"]}"#,
    )
});

fn parcel(fields: &str) -> Schema {
    parse(&format!(
        r#"{{"type": "record", "name": "ParcelSent", "fields": [{fields}]}}"#
    ))
}

impl Event for ParcelSent {
    const TOPIC: &'static Topic = &PARCELS;

    fn kind(&self) -> &'static str {
        "ParcelSent"
    }

    fn key(&self) -> Option<&str> {
        None
    }

    fn faults(&self) -> Vec<Fault> {
        Vec::new()
    }
}

proptest! {
    #[test]
    fn another_order_of_fields_and_one_more_are_read(order in order()) {
        let decoder = decoder_of(&OTHER_ORDERS);
        prop_assert_eq!(decoder.decode(&write_other(&order)), Ok(order));
    }

    #[test]
    fn an_int_is_read_as_a_long(banner_id in any::<i32>(), received_at in any::<i32>()) {
        let writer = parse(r#"{"type": "record", "name": "BannerClicked", "namespace": "millrace.clicks", "fields": [
            {"name": "banner_id", "type": "int"}, {"name": "received_at", "type": "int"}]}"#);
        let click = BannerClicked { banner_id: banner_id.into(), received_at: received_at.into() };
        let bytes = write(&writer, to_value(click).unwrap());
        prop_assert_eq!(decoder_of(&writer).decode(&bytes), Ok(click));
    }

    #[test]
    fn a_field_that_came_later_has_its_default(id in any::<i64>()) {
        let writer = parcel(r#"{"name": "id", "type": "long"}"#);
        let bytes = [frame(OTHER).to_vec(), long(id)].concat();
        let parcel = ParcelSent { id, note: "none".into(), weight: None };
        prop_assert_eq!(decoder_of(&writer).decode(&bytes), Ok(parcel));
    }
}

#[test]
fn a_version_that_this_build_cannot_read_stops_it_before_the_first_record() {
    let without_a_field = changed_orders(|fields| drop(fields.remove(0)));
    let with_another_type = changed_orders(|fields| fields[0]["type"] = "long".into());
    // Every record could be read but the one without a locale; that one must not go to the dead letters.
    let sometimes_null = changed_orders(|fields| {
        let locale = fields.iter_mut().find(|f| f["name"] == "locale").unwrap();
        locale["type"] = serde_json::json!(["string", "null"]);
    });
    for writer in [&without_a_field, &with_another_type, &sometimes_null] {
        needs_newer_build::<OrderPlaced>(&serde_json::to_string(writer).unwrap());
    }
    needs_newer_build::<OrderPlaced>(r#"{"type": "a type of the future"}"#);
    needs_newer_build::<OrderPlaced>("no JSON");
}

#[test]
fn a_version_that_only_seems_to_be_readable_stops_the_build_too() {
    // The check of apache-avro knows aliases, its resolution does not.
    let renamed = parcel(
        r#"{"name": "id", "type": "long"}, {"name": "note", "type": "string"},
           {"name": "grams", "type": "string"}"#,
    );
    needs_newer_build::<ParcelSent>(&serde_json::to_string(&renamed).unwrap());
    // Canonical forms know no units: these are the same words, a thousand times later.
    let clicks = include_str!("../../avro/clicks.avsc");
    needs_newer_build::<BannerClicked>(&clicks.replace("millis", "micros"));
}

fn needs_newer_build<E: Event>(writer: &str) {
    let mut decoder = Decoder::<E>::new("shop.topic");
    let error = decoder.accept(OTHER, Some(writer), true).unwrap_err();
    let message = error.to_string();
    let LearnError::NewerBuildNeeded { id, subject, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((id, subject.as_str()), (OTHER, "shop.topic-value"));
    assert!(message.len() < 2_000, "a long message: {message}");
    let decoded = decoder.decode(&frame(OTHER)).map(drop);
    assert_eq!(decoded, Err(DecodeError::NotLearned(OTHER)));
}

#[test]
fn an_id_of_another_subject_and_an_id_of_nothing_are_told_apart() {
    let mut decoder = Decoder::<BannerClicked>::new("clicks");
    let own = BannerClicked::schema().canonical_form();
    decoder.accept(1, None, false).unwrap();
    decoder.accept(2, Some(&own), false).unwrap();
    decoder.accept(3, Some("\"no schema\""), false).unwrap();
    let decode = |id| decoder.decode(&frame(id)).unwrap_err();
    let foreign = |id| DecodeError::ForeignSchema {
        id,
        subject: "clicks-value".into(),
    };
    assert_eq!(decode(1), DecodeError::NoSuchSchema(1));
    assert_eq!(decode(2), foreign(2));
    assert_eq!(decode(3), foreign(3));
    assert_eq!(decode(4), DecodeError::NotLearned(4));
}

#[tokio::test]
async fn no_answer_of_the_registry_says_nothing_of_an_id() {
    // Nobody listens on the port of a socket that is closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|s| s.local_addr());
    let away = Registry::new(&format!("http://{}", port.unwrap())).unwrap();
    let mut decoder = Decoder::<BannerClicked>::new("clicks");
    let learned = decoder.learn(&away, OTHER).await;
    assert!(
        matches!(learned, Err(LearnError::Registry(_))),
        "{learned:?}"
    );
    let decoded = decoder.decode(&frame(OTHER)).unwrap_err();
    assert_eq!(decoded, DecodeError::NotLearned(OTHER));
}

#[test]
fn the_same_answer_has_the_same_fingerprint_and_another_has_another() {
    let other = serde_json::to_string(&*OTHER_ORDERS).unwrap();
    let answers = [
        None,
        Some(include_str!("../../avro/orders.avsc")),
        Some(other.as_str()),
    ];
    let prints = || {
        let mut decoder = Decoder::<OrderPlaced>::new("orders");
        answers.map(|text| decoder.accept(OTHER, text, true).unwrap())
    };
    let [none, own, other] = prints();
    assert_eq!(prints(), [none.clone(), own.clone(), other.clone()]);
    assert!(none != own && own != other && other != none);
}

proptest! {
    #[test]
    fn a_topic_of_several_events_is_read_from_before_there_were_so_many(event in sale_event()) {
        // The last branch came later, and the others have a field more since.
        let mut older: serde_json::Value =
            serde_json::from_str(include_str!("../../avro/sales.avsc")).unwrap();
        older.as_array_mut().unwrap().pop();
        for branch in older.as_array_mut().unwrap() {
            branch["fields"].as_array_mut().unwrap().retain(|field| field["name"] != "key");
        }
        let older = Schema::parse(&older).unwrap();
        let (branch, written, wanted) = match event {
            SaleEvent::CheckoutRequested(mut checkout) => {
                checkout.key = None;
                (0, to_value(&checkout), SaleEvent::CheckoutRequested(checkout))
            }
            SaleEvent::PurchaseRequested(mut purchase) => {
                purchase.key = None;
                (1, to_value(&purchase), SaleEvent::PurchaseRequested(purchase))
            }
            SaleEvent::Barrier(_) => return Ok(()),
        };
        let Ok(Value::Record(mut fields)) = written else {
            panic!("{written:?}");
        };
        fields.retain(|(name, _)| name != "key");
        let bytes = write(&older, Value::Union(branch, Box::new(Value::Record(fields))));
        prop_assert_eq!(decoder_of::<SaleEvent>(&older).decode(&bytes), Ok(wanted));
    }
}
