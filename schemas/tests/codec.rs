//! What the codec promises: events come back as they were written, other versions are read or refused as a whole,
//! and no bytes, whoever wrote them, bring a process down or make it take memory that they do not account for.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::LazyLock,
};

use apache_avro::{Schema, to_value, types::Value, writer::datum::GenericDatumWriter};
use proptest::{
    array::{uniform5, uniform6, uniform7, uniform10},
    collection::vec,
    prelude::*,
};
use schemas::{
    clicks::BannerClicked,
    codec::{
        DecodeError, Decoder, EncodeError, Encoder, LearnError, RECORD_BYTES_MAX, decode_any,
        hostile,
    },
    event::{Event, Fault},
    json,
    orders::{Delivery, Item, OrderPlaced, Payment},
    topics::{Compatibility, Topic},
};
use serde::{Deserialize, Serialize};

/// The id of this build's schema, and of another version, in these tests.
const OWN: u32 = 7;
const OTHER: u32 = 8;

// Strategies and helpers.

fn text() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(String::new()), 4 => "(?s).{0,24}"]
}

fn delivery() -> impl Strategy<Value = Delivery> {
    uniform7(text()).prop_map(|texts| {
        let [name, phone, zip, city, address, region, email] = texts;
        Delivery {
            name,
            phone,
            zip,
            city,
            address,
            region,
            email,
        }
    })
}

fn payment() -> impl Strategy<Value = Payment> {
    (uniform5(text()), uniform5(any::<i64>())).prop_map(|(texts, numbers)| {
        let [transaction, request_id, currency, provider, bank] = texts;
        let [amount, payment_dt, delivery_cost, goods_total, custom_fee] = numbers;
        Payment {
            transaction,
            request_id,
            currency,
            provider,
            amount,
            payment_dt,
            bank,
            delivery_cost,
            goods_total,
            custom_fee,
        }
    })
}

fn item() -> impl Strategy<Value = Item> {
    (uniform5(text()), uniform6(any::<i64>())).prop_map(|(texts, numbers)| {
        let [track_number, rid, name, size, brand] = texts;
        let [chrt_id, price, sale, total_price, nm_id, status] = numbers;
        Item {
            chrt_id,
            track_number,
            price,
            rid,
            name,
            sale,
            size,
            total_price,
            nm_id,
            brand,
            status,
        }
    })
}

fn order() -> impl Strategy<Value = OrderPlaced> {
    let parts = (
        uniform10(text()),
        any::<i64>(),
        delivery(),
        payment(),
        vec(item(), 0..6),
    );
    parts.prop_map(|(texts, sm_id, delivery, payment, items)| {
        let [order_uid, track_number, entry, locale, rest @ ..] = texts;
        let [
            internal_signature,
            customer_id,
            delivery_service,
            shardkey,
            date_created,
            oof_shard,
        ] = rest;
        OrderPlaced {
            order_uid,
            track_number,
            entry,
            delivery,
            payment,
            items,
            locale,
            internal_signature,
            customer_id,
            delivery_service,
            shardkey,
            sm_id,
            date_created,
            oof_shard,
        }
    })
}

fn click() -> impl Strategy<Value = BannerClicked> {
    (any::<i64>(), any::<i64>()).prop_map(|(banner_id, received_at)| BannerClicked {
        banner_id,
        received_at,
    })
}

fn model() -> OrderPlaced {
    json::read(serde_json::from_str(include_str!("../../data/model.json")).unwrap()).unwrap()
}

fn encode<E: Event>(event: &E) -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::new(OWN).unwrap().encode(event, &mut out).unwrap();
    out
}

/// A decoder that knows this build's schema as `OWN`.
fn decoder<E: Event>() -> Decoder<E> {
    let mut decoder = Decoder::new(E::TOPIC.name);
    let text = serde_json::to_string(E::schema()).unwrap();
    decoder.accept(OWN, Some(&text), true).unwrap();
    decoder
}

/// A decoder that knows `writer` as `OTHER`, too.
fn decoder_of<E: Event>(writer: &Schema) -> Decoder<E> {
    let mut decoder = decoder();
    let text = serde_json::to_string(writer).unwrap();
    decoder.accept(OTHER, Some(&text), true).unwrap();
    decoder
}

/// A record value with `OTHER` as its schema.
fn write(writer: &Schema, value: Value) -> Vec<u8> {
    let mut out = frame(OTHER).to_vec();
    let value = value.resolve(writer).unwrap();
    GenericDatumWriter::builder(writer)
        .build()
        .unwrap()
        .write_value(&mut out, value)
        .unwrap();
    out
}

fn frame(id: u32) -> [u8; 5] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, a, b, c, d]
}

/// An Avro long.
fn long(number: i64) -> Vec<u8> {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let mut out = Vec::new();
    while rest > 0x7f {
        out.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap());
    out
}

fn parse(text: &str) -> Schema {
    Schema::parse_str(text).unwrap()
}

/// The schema of orders after `change`.
fn changed_orders(change: impl FnOnce(&mut Vec<serde_json::Value>)) -> Schema {
    let mut schema: serde_json::Value =
        serde_json::from_str(include_str!("../avro/orders.avsc")).unwrap();
    change(schema["fields"].as_array_mut().unwrap());
    Schema::parse(&schema).unwrap()
}

/// A version of orders that has another order of fields and a text at its end that this build lacks.
static OTHER_ORDERS: LazyLock<Schema> = LazyLock::new(|| {
    changed_orders(|fields| {
        fields.reverse();
        fields.push(serde_json::json!({"name": "gift_note", "type": "string"}));
    })
});

fn write_other(order: &OrderPlaced) -> Vec<u8> {
    let Value::Record(mut fields) = to_value(order).unwrap() else {
        panic!("an order is a record");
    };
    fields.push(("gift_note".into(), Value::String("with love".into())));
    write(&OTHER_ORDERS, Value::Record(fields))
}

// Round trips.

proptest! {
    #[test]
    fn an_order_comes_back_as_it_was_written(order in order()) {
        prop_assert_eq!(decoder().decode(&encode(&order)), Ok(order));
    }

    #[test]
    fn a_click_comes_back_as_it_was_written(click in click()) {
        prop_assert_eq!(decoder().decode(&encode(&click)), Ok(click));
    }

    #[test]
    fn bytes_left_over_are_refused(order in order(), tail in vec(any::<u8>(), 1..20)) {
        let decoder = decoder_of::<OrderPlaced>(&OTHER_ORDERS);
        for mut bytes in [encode(&order), write_other(&order)] {
            bytes.extend_from_slice(&tail);
            let refused = matches!(decoder.decode(&bytes), Err(DecodeError::Malformed { .. }));
            prop_assert!(refused);
        }
    }

    #[test]
    fn records_are_appended_to_what_is_there(click in click(), before in vec(any::<u8>(), 0..20)) {
        let mut out = before.clone();
        Encoder::new(OWN).unwrap().encode(&click, &mut out).unwrap();
        prop_assert_eq!(out, [before, encode(&click)].concat());
    }
}

#[test]
fn the_largest_record_is_read_and_one_byte_more_is_not_written() {
    let mut order = model();
    order.locale = "x".repeat(RECORD_BYTES_MAX - 1);
    let over = encode_error(&order);
    let EncodeError::TooLarge { bytes } = over else {
        panic!("{over}");
    };
    order
        .locale
        .truncate(order.locale.len() - (bytes - RECORD_BYTES_MAX));
    let bytes = encode(&order);
    assert_eq!(bytes.len(), RECORD_BYTES_MAX);
    assert_eq!(decoder().decode(&bytes), Ok(order.clone()));

    order.locale.push('x');
    let error = encode_error(&order);
    assert!(
        matches!(error, EncodeError::TooLarge { bytes } if bytes == RECORD_BYTES_MAX + 1),
        "{error}"
    );
}

/// The error of an event that cannot be encoded, which must leave the buffer as it was.
fn encode_error<E: Event>(event: &E) -> EncodeError {
    let mut out = b"earlier".to_vec();
    let error = Encoder::new(OWN)
        .unwrap()
        .encode(event, &mut out)
        .unwrap_err();
    assert_eq!(out, b"earlier");
    error
}

#[test]
fn a_struct_that_does_not_fit_its_schema_leaves_the_buffer_as_it_was() {
    let error = encode_error(&Misfit {
        banner_id: 1,
        received_at: "noon".into(),
    });
    assert!(matches!(error, EncodeError::Schema(_)), "{error}");
}

/// Claims the schema of clicks with a second field that is none of its types.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Misfit {
    banner_id: i64,
    received_at: String,
}

impl Event for Misfit {
    const TOPIC: &'static Topic = &schemas::clicks::TOPIC;

    fn kind(&self) -> &'static str {
        "Misfit"
    }

    fn key(&self) -> Option<&str> {
        None
    }

    fn faults(&self) -> Vec<Fault> {
        Vec::new()
    }
}

// Other versions.

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
    let clicks = include_str!("../avro/clicks.avsc");
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

#[test]
fn the_same_answer_has_the_same_fingerprint_and_another_has_another() {
    let other = serde_json::to_string(&*OTHER_ORDERS).unwrap();
    let answers = [
        None,
        Some(include_str!("../avro/orders.avsc")),
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

// Hostile bytes.

/// Counts what the current thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(
    unsafe_code,
    reason = "the trait is unsafe; every call is handed on as it came"
)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may exist at the same time.
        count(0, size);
        count(layout.size(), 0);
        unsafe { System.realloc(place, layout, size) }
    }
}

fn count(freed: usize, taken: usize) {
    // What another thread allocated may be freed here: hence saturating.
    let held = HELD.get().saturating_sub(freed).saturating_add(taken);
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

/// What `work` gives, and the most bytes that it held at a time.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, PEAK.get() - before)
}

/// Memory in proportion to a record, whatever it says: straight into the struct, and through values, which repeat
/// the names of their fields.
const BYTES_PER_BYTE: usize = 64;
const BYTES_PER_BYTE_OTHER: usize = 128;
const BYTES_ALWAYS: usize = 64 << 10;
/// One text and one list whose lengths are announced before they turn out to be missing.
const BYTES_ANNOUNCED: usize = 2 * RECORD_BYTES_MAX;

/// Decodes within the limits of memory, or panics.
fn decode_within<E: Event>(decoder: &Decoder<E>, bytes: &[u8]) -> Result<E, DecodeError> {
    let (result, peak) = measured(|| decoder.decode(bytes));
    let announced = if result.is_ok() { 0 } else { BYTES_ANNOUNCED };
    let other = bytes.starts_with(&frame(OTHER));
    let per_byte = if other {
        BYTES_PER_BYTE_OTHER
    } else {
        BYTES_PER_BYTE
    };
    let limit = per_byte * bytes.len() + BYTES_ALWAYS + announced;
    assert!(
        peak <= limit,
        "{peak} bytes for a record of {}, {:?}",
        bytes.len(),
        result.map(drop)
    );
    if let Err(error) = &result {
        let message = error.to_string();
        assert!(message.len() < 2_000, "a long message: {message}");
    }
    result
}

proptest! {
    #[test]
    fn random_bytes_are_an_error_or_an_event(bytes in vec(any::<u8>(), 0..400)) {
        let orders = decoder_of::<OrderPlaced>(&OTHER_ORDERS);
        let clicks = decoder::<BannerClicked>();
        drop(decode_within(&orders, &bytes));
        for id in [OWN, OTHER] {
            let bytes = [&frame(id)[..], &bytes].concat();
            drop(decode_within(&orders, &bytes));
            drop(decode_within(&clicks, &bytes));
        }
    }

    #[test]
    fn memory_is_in_proportion_to_the_record(order in order()) {
        let decoder = decoder_of::<OrderPlaced>(&OTHER_ORDERS);
        for bytes in [encode(&order), write_other(&order)] {
            prop_assert_eq!(decode_within(&decoder, &bytes), Ok(order.clone()));
        }
    }
}

#[test]
fn a_truncated_record_is_an_error() {
    let decoder = decoder_of::<OrderPlaced>(&OTHER_ORDERS);
    for bytes in [encode(&model()), write_other(&model())] {
        for length in 0..bytes.len() {
            let result = decode_within(&decoder, &bytes[..length]);
            assert!(result.is_err(), "{length} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn a_truncated_datum_is_an_error_to_people_too() {
    let bytes = write_other(&model());
    let datum = &bytes[5..];
    assert!(decode_any(&OTHER_ORDERS, datum).is_ok());
    for length in 0..datum.len() {
        assert!(
            decode_any(&OTHER_ORDERS, &datum[..length]).is_err(),
            "{length}"
        );
    }
    let optional = parse(r#"["null", "string"]"#);
    assert!(decode_any(&optional, &[]).is_err());
    assert!(decode_any(&Schema::Boolean, &[]).is_err());
}

#[test]
fn a_flipped_bit_is_an_error_or_another_event() {
    let decoder = decoder_of::<OrderPlaced>(&OTHER_ORDERS);
    // The last field of the other version is dropped: its bits do not matter.
    let dropped = "with love".len();
    for (valid, dropped) in [(encode(&model()), 0), (write_other(&model()), dropped)] {
        let mut bytes = valid.clone();
        for bit in 0..valid.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let result = decode_within(&decoder, &bytes);
            let matters = bit / 8 < valid.len() - dropped;
            assert!(!matters || result != Ok(model()), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn another_frame_is_an_error() {
    let decoder = decoder::<BannerClicked>();
    let click = BannerClicked {
        banner_id: 1,
        received_at: 2,
    };
    let valid = encode(&click);
    for magic in 1..=u8::MAX {
        let bytes = [&[magic], &valid[1..]].concat();
        let result = decode_within(&decoder, &bytes);
        assert!(matches!(result, Err(DecodeError::Frame(_))), "{magic}");
    }
    let unknown = [&frame(99)[..], &valid[5..]].concat();
    let result = decode_within(&decoder, &unknown);
    assert_eq!(result, Err(DecodeError::NotLearned(99)));
    let too_large = [valid, vec![0; RECORD_BYTES_MAX]].concat();
    let result = decode_within(&decoder, &too_large);
    assert!(matches!(result, Err(DecodeError::Frame(_))));
}

/// Lengths that no record has.
const LENGTHS: [i64; 9] = [
    1 << 20,
    (1 << 20) + 1,
    1 << 31,
    4 << 30,
    i64::MAX,
    -1,
    -(1 << 20),
    -(4 << 30),
    i64::MIN,
];

#[test]
fn a_text_that_announces_gigabytes_is_an_error() {
    let decoder = decoder_of::<OrderPlaced>(&OTHER_ORDERS);
    for length in LENGTHS {
        for id in [OWN, OTHER] {
            let bytes = [frame(id).to_vec(), long(length), b"abc".to_vec()].concat();
            assert!(decode_within(&decoder, &bytes).is_err(), "{length}");
        }
    }
}

#[test]
fn a_list_that_announces_gigabytes_is_an_error() {
    let items_last = changed_orders(|fields| {
        let at = fields.iter().position(|f| f["name"] == "items").unwrap();
        let items = fields.remove(at);
        fields.push(items);
    });
    let decoder = decoder_of::<OrderPlaced>(&items_last);
    let mut order = model();
    order.items.clear();
    let mut bytes = write(&items_last, to_value(&order).unwrap());
    assert_eq!(bytes.pop(), Some(0), "the end of the empty list");
    // One item in a first block, so that later blocks meet a list that has begun.
    let mut item = vec![2];
    item.extend([0; 11]);
    for length in LENGTHS {
        for before in [&[][..], &item] {
            for item in [&[][..], &[0; 11], &[2; 11]] {
                // After a negative count comes the size of the block.
                for size in [&[][..], &[22], &long(i64::MAX), &long(-1)] {
                    let bytes = [&bytes[..], before, &long(length), size, item].concat();
                    let result = decode_within(&decoder, &bytes);
                    assert!(result.is_err(), "{length} {size:?} {item:?}");
                }
            }
        }
    }
}

#[test]
fn a_list_in_blocks_is_read() {
    let list = parse(r#"{"type": "array", "items": "long"}"#);
    let blocks = [long(2), vec![2, 4], long(-1), long(1), vec![6], long(0)].concat();
    let read = decode_any(&list, &blocks).unwrap();
    assert_eq!(read, Value::Array([1, 2, 3].map(Value::Long).to_vec()));
}

#[test]
fn an_order_of_as_many_items_as_are_allowed_is_read_by_later_builds_too() {
    let mut order = model();
    let item = Item {
        track_number: String::new(),
        rid: String::new(),
        name: String::new(),
        size: String::new(),
        brand: String::new(),
        ..order.items.remove(0)
    };
    order.items = vec![item; 10_000];
    assert_eq!(order.faults(), []);
    let decoder = decoder_of::<OrderPlaced>(&OTHER_ORDERS);
    for bytes in [encode(&order), write_other(&order)] {
        assert_eq!(decode_within(&decoder, &bytes), Ok(order.clone()));
    }
    order.items.push(order.items[0].clone());
    let faults = order.faults();
    assert_eq!(
        faults,
        [Fault::new("items", "must have at most 10000 items")]
    );
}

fn nested(levels: usize, open: &str, close: &str) -> String {
    format!("{}\"long\"{}", open.repeat(levels), close.repeat(levels))
}

/// Types that are defined one after another, each holding two of the one before.
fn doubling(levels: usize, first: &str) -> String {
    let mut fields = vec![format!(
        r#"{{"name": "f0", "type": {{"type": "record", "name": "T0", "fields": [{first}]}}}}"#
    )];
    for level in 1..levels {
        let below = level - 1;
        fields.push(format!(
            r#"{{"name": "f{level}", "type": {{"type": "record", "name": "T{level}", "fields": [
                {{"name": "a", "type": "T{below}"}}, {{"name": "b", "type": "T{below}"}}]}}}}"#
        ));
    }
    record(&fields.join(","))
}

fn record(fields: &str) -> String {
    format!(r#"{{"type": "record", "name": "Top", "fields": [{fields}]}}"#)
}

#[test]
fn a_schema_whose_data_could_grow_is_refused() {
    let array = (r#"{"type": "array", "items": "#, "}");
    let empty = r#"{"type": "record", "name": "Empty", "fields": []}"#;
    let long_name = "x".repeat(100_000);
    for text in [
        // Types that hold themselves.
        record(r#"{"name": "next", "type": "Top"}"#),
        record(r#"{"name": "next", "type": ["null", "Top"]}"#),
        record(r#"{"name": "next", "type": {"type": "array", "items": "Top"}}"#),
        record(r#"{"name": "next", "type": {"type": "map", "values": "Top"}}"#),
        record(
            r#"{"name": "a", "type": {"type": "record", "name": "Inner", "fields": [
                {"name": "back", "type": ["null", "Top"]}]}}"#,
        ),
        // Lists of things that take no bytes.
        r#"{"type": "array", "items": "null"}"#.into(),
        r#"{"type": "map", "values": "null"}"#.into(),
        format!(r#"{{"type": "array", "items": {empty}}}"#),
        r#"{"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}"#.into(),
        record(&format!(
            r#"{{"name": "a", "type": {empty}}}, {{"name": "b", "type": {{"type": "array", "items": "Empty"}}}}"#
        )),
        record(&format!(
            r#"{{"name": "a", "type": ["null", {empty}]}}, {{"name": "b", "type": {{"type": "array", "items": "Empty"}}}}"#
        )),
        // Two to the thirtieth things that take no bytes.
        doubling(30, ""),
        doubling(30, r#"{"name": "n", "type": "null"}"#),
        // Deep nesting, in place and by name.
        nested(100, array.0, array.1),
        doubling(60, r#"{"name": "n", "type": "long"}"#),
        // Every list that is open may announce a mebibyte.
        nested(10, array.0, array.1),
        // Sizes and names that the schema makes large.
        record(r#"{"name": "f", "type": {"type": "fixed", "name": "F", "size": 4294967296}}"#),
        record(&format!(r#"{{"name": "{long_name}", "type": "long"}}"#)),
        record(&format!(
            r#"{{"name": "e", "type": {{"type": "enum", "name": "E", "symbols": ["{long_name}"]}}}}"#
        )),
    ] {
        let refused = hostile(&parse(&text));
        assert!(refused.is_some(), "{text:.300}");
        assert!(decode_any(&parse(&text), &[0]).is_err());
        let mut decoder = decoder::<OrderPlaced>();
        decoder.accept(OTHER, Some(&text), true).unwrap();
        let result = decode_within(&decoder, &frame(OTHER)).map(drop);
        let error = DecodeError::HostileSchema {
            id: OTHER,
            why: refused.unwrap(),
        };
        assert_eq!(result, Err(error));
    }
}

#[test]
fn a_schema_as_people_write_them_is_not_refused() {
    let empty = r#"{"type": "record", "name": "Barrier", "fields": []}"#;
    let used_twice = r#"{"name": "a", "type": {"type": "record", "name": "Money", "fields": [
        {"name": "amount", "type": "long"}]}}, {"name": "b", "type": "Money"},
        {"name": "c", "type": {"type": "array", "items": "Money"}}"#;
    for text in [
        include_str!("../avro/clicks.avsc").to_owned(),
        include_str!("../avro/orders.avsc").to_owned(),
        record(used_twice),
        record(r#"{"name": "a", "type": ["null", "string"]}"#),
        record(r#"{"name": "a", "type": {"type": "map", "values": ["null", "long"]}}"#),
        record(r#"{"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}}"#),
        format!("[{}, {empty}]", record(used_twice)),
        r#"{"type": "fixed", "name": "F", "size": 16}"#.into(),
        r#"{"type": "string", "logicalType": "uuid"}"#.into(),
        nested(3, r#"{"type": "array", "items": "#, "}"),
    ] {
        assert_eq!(hostile(&parse(&text)), None, "{text}");
    }
}

#[test]
fn lists_in_lists_stay_within_some_mebibytes() {
    let lists = parse(&nested(3, r#"{"type": "array", "items": "#, "}"));
    let announced = long(15_000).repeat(3);
    let (result, peak) = measured(|| decode_any(&lists, &announced));
    assert!(result.is_err());
    assert!(peak < 4 * RECORD_BYTES_MAX, "{peak} bytes");
}
