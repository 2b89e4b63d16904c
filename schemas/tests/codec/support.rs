//! Events by chance, schemas of others, and short ways to write and read them.

use apache_avro::{Schema, to_value, types::Value, writer::datum::GenericDatumWriter};
use proptest::{
    array::{uniform5, uniform6, uniform7, uniform10},
    collection::vec,
    prelude::*,
};
use schemas::{
    clicks::BannerClicked,
    codec::{Decoder, Encoder},
    event::Event,
    json,
    orders::{Delivery, Item, OrderPlaced, Payment},
    sales::{Barrier, CheckoutRequested, Code, PurchaseRequested, SaleEvent, SaleId},
    segments::{
        MembershipChangeRequested, SegmentCreateRequested, SegmentDeleteRequested, SegmentEvent,
    },
    users::{UserEvent, UserProfileSet, UserRemoved},
};
use std::sync::LazyLock;

/// The id of this build's schema, and of another version, in these tests.
pub(crate) const OWN: u32 = 7;
pub(crate) const OTHER: u32 = 8;

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(String::new()), 4 => "(?s).{0,24}"]
}

pub(crate) fn user_event() -> impl Strategy<Value = UserEvent> {
    let set = (text(), text(), text()).prop_map(|(user_id, deeplink, promo_message)| {
        UserEvent::UserProfileSet(UserProfileSet {
            user_id,
            deeplink,
            promo_message,
        })
    });
    let removed = text().prop_map(|user_id| UserEvent::UserRemoved(UserRemoved { user_id }));
    prop_oneof![set, removed]
}

pub(crate) fn segment_event() -> impl Strategy<Value = SegmentEvent> {
    let one = || (text(), any::<i64>(), text());
    let create = one().prop_map(|(slug, requested_at, key)| {
        SegmentEvent::SegmentCreateRequested(SegmentCreateRequested {
            slug,
            requested_at,
            key,
        })
    });
    let delete = one().prop_map(|(slug, requested_at, key)| {
        SegmentEvent::SegmentDeleteRequested(SegmentDeleteRequested {
            slug,
            requested_at,
            key,
        })
    });
    let lists = (vec(text(), 0..5), vec(text(), 0..5));
    let change = (any::<i64>(), lists, any::<Option<i64>>(), one()).prop_map(
        |(user_id, (add, del), ttl_ms, (_, requested_at, key))| {
            SegmentEvent::MembershipChangeRequested(MembershipChangeRequested {
                user_id,
                add,
                del,
                ttl_ms,
                requested_at,
                key,
            })
        },
    );
    prop_oneof![create, delete, change]
}

pub(crate) fn delivery() -> impl Strategy<Value = Delivery> {
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

pub(crate) fn payment() -> impl Strategy<Value = Payment> {
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

pub(crate) fn item() -> impl Strategy<Value = Item> {
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

pub(crate) fn order() -> impl Strategy<Value = OrderPlaced> {
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

pub(crate) fn click() -> impl Strategy<Value = BannerClicked> {
    (any::<i64>(), any::<i64>()).prop_map(|(banner_id, received_at)| BannerClicked {
        banner_id,
        received_at,
    })
}

pub(crate) fn code() -> impl Strategy<Value = Code> {
    (0_i64..1 << 36, any::<i64>(), any::<i64>()).prop_map(|(seconds, offset, nonce)| {
        Code::new(SaleId::starting_at_ms(seconds * 1_000), offset, nonce)
    })
}

pub(crate) fn sale_event() -> impl Strategy<Value = SaleEvent> {
    let numbers = || (any::<i64>(), any::<i64>(), any::<i64>());
    let key = || proptest::option::of(text());
    prop_oneof![
        (any::<i64>(), any::<i32>(), numbers(), key()).prop_map(
            |(user_id, item_id, numbers, key)| {
                let (requested_at, rules_seen, nonce) = numbers;
                SaleEvent::CheckoutRequested(CheckoutRequested {
                    user_id,
                    item_id,
                    requested_at,
                    rules_seen,
                    nonce,
                    key,
                })
            }
        ),
        (code(), numbers(), key()).prop_map(|(code, numbers, key)| {
            let (requested_at, rules_seen, nonce) = numbers;
            SaleEvent::PurchaseRequested(PurchaseRequested {
                code,
                requested_at,
                rules_seen,
                nonce,
                key,
            })
        }),
        any::<i64>().prop_map(|nonce| SaleEvent::Barrier(Barrier { nonce })),
    ]
}

pub(crate) fn model() -> OrderPlaced {
    json::read(serde_json::from_str(include_str!("../../../data/model.json")).unwrap()).unwrap()
}

pub(crate) fn encode<E: Event>(event: &E) -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::new(OWN).unwrap().encode(event, &mut out).unwrap();
    out
}

/// A decoder that knows this build's schema as `OWN`.
pub(crate) fn decoder<E: Event>() -> Decoder<E> {
    let mut decoder = Decoder::new(E::TOPIC.name);
    let text = serde_json::to_string(E::schema()).unwrap();
    decoder.accept(OWN, Some(&text), true).unwrap();
    decoder
}

/// A decoder that knows `writer` as `OTHER`, too.
pub(crate) fn decoder_of<E: Event>(writer: &Schema) -> Decoder<E> {
    let mut decoder = decoder();
    let text = serde_json::to_string(writer).unwrap();
    decoder.accept(OTHER, Some(&text), true).unwrap();
    decoder
}

/// A record value with `OTHER` as its schema.
pub(crate) fn write(writer: &Schema, value: Value) -> Vec<u8> {
    let mut out = frame(OTHER).to_vec();
    let value = value.resolve(writer).unwrap();
    GenericDatumWriter::builder(writer)
        .build()
        .unwrap()
        .write_value(&mut out, value)
        .unwrap();
    out
}

pub(crate) fn frame(id: u32) -> [u8; 5] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, a, b, c, d]
}

/// An Avro long.
pub(crate) fn long(number: i64) -> Vec<u8> {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let mut out = Vec::new();
    while rest > 0x7f {
        out.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap());
    out
}

pub(crate) fn parse(text: &str) -> Schema {
    Schema::parse_str(text).unwrap()
}

/// The schema of orders after `change`.
pub(crate) fn changed_orders(change: impl FnOnce(&mut Vec<serde_json::Value>)) -> Schema {
    let mut schema: serde_json::Value =
        serde_json::from_str(include_str!("../../avro/orders.avsc")).unwrap();
    change(schema["fields"].as_array_mut().unwrap());
    Schema::parse(&schema).unwrap()
}

/// A version of orders that has another order of fields and a text at its end that this build lacks.
pub(crate) static OTHER_ORDERS: LazyLock<Schema> = LazyLock::new(|| {
    changed_orders(|fields| {
        fields.reverse();
        fields.push(serde_json::json!({"name": "gift_note", "type": "string"}));
    })
});

pub(crate) fn write_other(order: &OrderPlaced) -> Vec<u8> {
    let Value::Record(mut fields) = to_value(order).unwrap() else {
        panic!("an order is a record");
    };
    fields.push(("gift_note".into(), Value::String("with love".into())));
    write(&OTHER_ORDERS, Value::Record(fields))
}
