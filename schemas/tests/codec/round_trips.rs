//! Events come back as they were written.

use crate::support::*;
use apache_avro::reader::datum::GenericDatumReader;
use proptest::{collection::vec, prelude::*, sample::Index};
use schemas::{
    codec::{DecodeError, EVENT_BYTES_MAX, EncodeError, Encoder, unframe},
    datum::Datum,
    event::{Event, Fault},
    orders::OrderPlaced,
    sales::SaleEvent,
    topics::Topic,
};
use serde::{Deserialize, Serialize};

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
    fn a_request_of_the_sale_comes_back_as_it_was_written(event in sale_event()) {
        prop_assert_eq!(decoder().decode(&encode(&event)), Ok(event));
    }

    #[test]
    fn an_event_of_a_user_comes_back_as_it_was_written(event in user_event()) {
        prop_assert_eq!(decoder().decode(&encode(&event)), Ok(event));
    }

    #[test]
    fn a_request_to_the_segments_comes_back_as_it_was_written(event in segment_event()) {
        prop_assert_eq!(decoder().decode(&encode(&event)), Ok(event));
    }

    #[test]
    fn the_short_way_reads_what_the_long_one_reads(
        event in sale_event(),
        changes in vec((any::<Index>(), any::<u8>()), 0..3),
        cut in prop_oneof![2 => Just(0), 1 => 1..9_usize],
    ) {
        let mut datum = unframe(&encode(&event)).unwrap().1.to_vec();
        for (index, byte) in &changes {
            let index = index.index(datum.len());
            datum[index] = *byte;
        }
        datum.truncate(datum.len().saturating_sub(cut));
        let is_whole = changes.is_empty() && cut == 0;
        let long = GenericDatumReader::builder(SaleEvent::schema())
            .human_readable(false)
            .build()
            .unwrap();
        let mut rest = &datum[..];
        match SaleEvent::read(Datum::new(&datum)) {
            None => prop_assert!(!is_whole),
            Some(read) => {
                prop_assert_eq!(long.read_deser::<SaleEvent>(&mut rest).unwrap(), read);
                prop_assert!(rest.is_empty());
            }
        }
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
    order.locale = "x".repeat(EVENT_BYTES_MAX - 1);
    let over = encode_error(&order);
    let EncodeError::TooLarge { bytes } = over else {
        panic!("{over}");
    };
    order
        .locale
        .truncate(order.locale.len() - (bytes - EVENT_BYTES_MAX));
    let bytes = encode(&order);
    assert_eq!(bytes.len(), EVENT_BYTES_MAX);
    assert_eq!(decoder().decode(&bytes), Ok(order.clone()));

    order.locale.push('x');
    let error = encode_error(&order);
    assert!(
        matches!(error, EncodeError::TooLarge { bytes } if bytes == EVENT_BYTES_MAX + 1),
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
