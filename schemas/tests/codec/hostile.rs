//! Hostile bytes and schemas: an error, never a panic or a large allocation.

use crate::support::*;
use apache_avro::{Schema, to_value, types::Value};
use proptest::{collection::vec, prelude::*};
use schemas::{
    clicks::BannerClicked,
    codec::{DecodeError, Decoder, RECORD_BYTES_MAX, decode_any},
    event::{Event, Fault},
    hostile::hostile,
    orders::{Item, OrderPlaced},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

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
        include_str!("../../avro/clicks.avsc").to_owned(),
        include_str!("../../avro/orders.avsc").to_owned(),
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
