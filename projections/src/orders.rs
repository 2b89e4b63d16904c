//! The tables of the orders. Before this: `processors/src/orders.rs`; next: `api/src/routes/orders.rs`.

use std::collections::HashMap;

use schemas::orders::{Item, OrderPlaced, TOPIC};
use sqlx::{PgConnection, Row, postgres::PgArguments, query::Query};

use crate::{
    pool::Pool,
    projection::{self, Projection},
    rows::Rows,
};

/// The projection.
pub static PROJECTION: Projection = Projection {
    name: "orders",
    of: &TOPIC,
    version: 1,
    tables: include_str!("../sql/orders.sql"),
    fold_settings: &[],
};

/// SHA-256 of an order's content.
pub type Digest = [u8; 32];

/// What is known of an order that is stored already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The record that it came in.
    pub partition: i32,
    /// The record that it came in.
    pub offset: i64,
    /// Time of that record, milliseconds since 1970-01-01T00:00:00Z.
    pub record_at_ms: i64,
    /// Its content.
    pub digest: Digest,
}

/// The orders that the records of a batch touch, by uid.
pub type Prior = HashMap<String, Known>;

/// An order to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrder<'a> {
    /// Its content.
    pub order: &'a OrderPlaced,
    /// The record that it came in, and its digest.
    pub known: Known,
}

/// What a batch changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Orders that give way to another of the same uid with a smaller offset; that one is in `placed`.
    pub displaced: Vec<&'a str>,
    /// Orders to store, sorted by uid.
    pub placed: Vec<NewOrder<'a>>,
}

/// Loads what is known of these orders.
///
/// # Errors
/// If Postgres does not answer.
pub async fn load(transaction: &mut PgConnection, uids: &[&str]) -> sqlx::Result<Prior> {
    let rows = sqlx::query(
        r#"SELECT order_uid, partition, "offset", record_at_ms, digest FROM orders
           WHERE order_uid = ANY($1)"#,
    )
    .bind(uids)
    .fetch_all(transaction)
    .await?;
    rows.iter()
        .map(|row| {
            let known = Known {
                partition: row.try_get(1)?,
                offset: row.try_get(2)?,
                record_at_ms: row.try_get(3)?,
                digest: row.try_get(4)?,
            };
            Ok((row.try_get(0)?, known))
        })
        .collect()
}

impl projection::Changes for Changes<'_> {
    async fn apply(&self, transaction: &mut PgConnection) -> sqlx::Result<()> {
        if !self.displaced.is_empty() {
            sqlx::query("DELETE FROM orders WHERE order_uid = ANY($1)")
                .bind(&self.displaced)
                .execute(&mut *transaction)
                .await?;
        }
        if self.placed.is_empty() {
            return Ok(());
        }
        insert_orders(&self.placed)
            .execute(&mut *transaction)
            .await?;
        insert_deliveries(&self.placed)
            .execute(&mut *transaction)
            .await?;
        insert_payments(&self.placed)
            .execute(&mut *transaction)
            .await?;
        insert_items(&self.placed).execute(transaction).await?;
        Ok(())
    }
}

type Statement<'a> = Query<'a, sqlx::Postgres, PgArguments>;

fn column<'a, T>(placed: &[NewOrder<'a>], get: impl Fn(&'a OrderPlaced) -> T) -> Vec<T> {
    placed.iter().map(|new| get(new.order)).collect()
}

fn insert_orders<'a>(placed: &'a [NewOrder<'a>]) -> Statement<'a> {
    sqlx::query(
        r#"INSERT INTO orders (order_uid, track_number, entry, locale, internal_signature,
               customer_id, delivery_service, shardkey, sm_id, date_created, oof_shard,
               partition, "offset", record_at_ms, digest)
           SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
               $6::text[], $7::text[], $8::text[], $9::bigint[], $10::text[], $11::text[],
               $12::int[], $13::bigint[], $14::bigint[], $15::bytea[])"#,
    )
    .bind(column(placed, |o| o.order_uid.as_str()))
    .bind(column(placed, |o| o.track_number.as_str()))
    .bind(column(placed, |o| o.entry.as_str()))
    .bind(column(placed, |o| o.locale.as_str()))
    .bind(column(placed, |o| o.internal_signature.as_str()))
    .bind(column(placed, |o| o.customer_id.as_str()))
    .bind(column(placed, |o| o.delivery_service.as_str()))
    .bind(column(placed, |o| o.shardkey.as_str()))
    .bind(column(placed, |o| o.sm_id))
    .bind(column(placed, |o| o.date_created.as_str()))
    .bind(column(placed, |o| o.oof_shard.as_str()))
    .bind(
        placed
            .iter()
            .map(|new| new.known.partition)
            .collect::<Vec<_>>(),
    )
    .bind(
        placed
            .iter()
            .map(|new| new.known.offset)
            .collect::<Vec<_>>(),
    )
    .bind(
        placed
            .iter()
            .map(|new| new.known.record_at_ms)
            .collect::<Vec<_>>(),
    )
    .bind(
        placed
            .iter()
            .map(|new| new.known.digest.as_slice())
            .collect::<Vec<_>>(),
    )
}

fn insert_deliveries<'a>(placed: &'a [NewOrder<'a>]) -> Statement<'a> {
    sqlx::query(
        "INSERT INTO deliveries (order_uid, name, phone, zip, city, address, region, email)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
             $6::text[], $7::text[], $8::text[])",
    )
    .bind(column(placed, |o| o.order_uid.as_str()))
    .bind(column(placed, |o| o.delivery.name.as_str()))
    .bind(column(placed, |o| o.delivery.phone.as_str()))
    .bind(column(placed, |o| o.delivery.zip.as_str()))
    .bind(column(placed, |o| o.delivery.city.as_str()))
    .bind(column(placed, |o| o.delivery.address.as_str()))
    .bind(column(placed, |o| o.delivery.region.as_str()))
    .bind(column(placed, |o| o.delivery.email.as_str()))
}

fn insert_payments<'a>(placed: &'a [NewOrder<'a>]) -> Statement<'a> {
    sqlx::query(
        "INSERT INTO payments (order_uid, transaction, request_id, currency, provider, amount,
             payment_dt, bank, delivery_cost, goods_total, custom_fee)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
             $6::bigint[], $7::bigint[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[])",
    )
    .bind(column(placed, |o| o.order_uid.as_str()))
    .bind(column(placed, |o| o.payment.transaction.as_str()))
    .bind(column(placed, |o| o.payment.request_id.as_str()))
    .bind(column(placed, |o| o.payment.currency.as_str()))
    .bind(column(placed, |o| o.payment.provider.as_str()))
    .bind(column(placed, |o| o.payment.amount))
    .bind(column(placed, |o| o.payment.payment_dt))
    .bind(column(placed, |o| o.payment.bank.as_str()))
    .bind(column(placed, |o| o.payment.delivery_cost))
    .bind(column(placed, |o| o.payment.goods_total))
    .bind(column(placed, |o| o.payment.custom_fee))
}

fn insert_items<'a>(placed: &'a [NewOrder<'a>]) -> Statement<'a> {
    let lines: Vec<(&str, i32, &Item)> = placed
        .iter()
        .flat_map(|new| {
            (0..)
                .zip(&new.order.items)
                .map(|(index, item)| (new.order.order_uid.as_str(), index, item))
        })
        .collect();
    let text =
        |get: fn(&Item) -> &str| -> Vec<_> { lines.iter().map(|(_, _, i)| get(i)).collect() };
    let number =
        |get: fn(&Item) -> i64| -> Vec<_> { lines.iter().map(|(_, _, i)| get(i)).collect() };
    sqlx::query(
        "INSERT INTO items (order_uid, item_index, chrt_id, track_number, price, rid, name, sale,
             size, total_price, nm_id, brand, status)
         SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::bigint[],
             $6::text[], $7::text[], $8::bigint[], $9::text[], $10::bigint[], $11::bigint[],
             $12::text[], $13::bigint[])",
    )
    .bind(lines.iter().map(|(uid, _, _)| *uid).collect::<Vec<_>>())
    .bind(lines.iter().map(|(_, index, _)| *index).collect::<Vec<_>>())
    .bind(number(|item| item.chrt_id))
    .bind(text(|item| &item.track_number))
    .bind(number(|item| item.price))
    .bind(text(|item| &item.rid))
    .bind(text(|item| &item.name))
    .bind(number(|item| item.sale))
    .bind(text(|item| &item.size))
    .bind(number(|item| item.total_price))
    .bind(number(|item| item.nm_id))
    .bind(text(|item| &item.brand))
    .bind(number(|item| item.status))
}

/// Rows of new orders for COPY, in all tables.
#[derive(Debug)]
pub struct Copies {
    orders: Rows,
    deliveries: Rows,
    payments: Rows,
    items: Rows,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            orders: Rows::new(
                r#"orders (order_uid, track_number, entry, locale, internal_signature, customer_id,
                delivery_service, shardkey, sm_id, date_created, oof_shard, partition, "offset",
                record_at_ms, digest)"#,
            ),
            deliveries: Rows::new(
                "deliveries (order_uid, name, phone, zip, city, address, region, email)",
            ),
            payments: Rows::new(
                "payments (order_uid, transaction, request_id, currency, provider, amount,
                payment_dt, bank, delivery_cost, goods_total, custom_fee)",
            ),
            items: Rows::new(
                "items (order_uid, item_index, chrt_id, track_number, price, rid, name, sale, size,
                total_price, nm_id, brand, status)",
            ),
        }
    }
}

impl Copies {
    /// How many bytes the rows take.
    pub fn byte_len(&self) -> usize {
        let all = [&self.orders, &self.deliveries, &self.payments, &self.items];
        all.iter().map(|rows| rows.byte_len()).sum()
    }

    /// Gives the rows, and has none afterwards.
    pub fn take(&mut self) -> Vec<Rows> {
        let all = [
            &mut self.orders,
            &mut self.deliveries,
            &mut self.payments,
            &mut self.items,
        ];
        let taken = all.map(Rows::take);
        taken.into_iter().filter(|rows| !rows.is_empty()).collect()
    }

    /// Adds an order that no other has the uid of.
    pub fn add(&mut self, NewOrder { order, known }: &NewOrder<'_>) {
        self.orders
            .row(15)
            .text(&order.order_uid)
            .text(&order.track_number)
            .text(&order.entry)
            .text(&order.locale)
            .text(&order.internal_signature)
            .text(&order.customer_id)
            .text(&order.delivery_service)
            .text(&order.shardkey)
            .bigint(order.sm_id)
            .text(&order.date_created)
            .text(&order.oof_shard)
            .integer(known.partition)
            .bigint(known.offset)
            .bigint(known.record_at_ms)
            .bytea(&known.digest);
        self.deliveries
            .row(8)
            .text(&order.order_uid)
            .text(&order.delivery.name)
            .text(&order.delivery.phone)
            .text(&order.delivery.zip)
            .text(&order.delivery.city)
            .text(&order.delivery.address)
            .text(&order.delivery.region)
            .text(&order.delivery.email);
        self.payments
            .row(11)
            .text(&order.order_uid)
            .text(&order.payment.transaction)
            .text(&order.payment.request_id)
            .text(&order.payment.currency)
            .text(&order.payment.provider)
            .bigint(order.payment.amount)
            .bigint(order.payment.payment_dt)
            .text(&order.payment.bank)
            .bigint(order.payment.delivery_cost)
            .bigint(order.payment.goods_total)
            .bigint(order.payment.custom_fee);
        for (index, item) in (0..).zip(&order.items) {
            self.add_item(&order.order_uid, index, item);
        }
    }

    fn add_item(&mut self, order_uid: &str, index: i32, item: &Item) {
        self.items
            .row(13)
            .text(order_uid)
            .integer(index)
            .bigint(item.chrt_id)
            .text(&item.track_number)
            .bigint(item.price)
            .text(&item.rid)
            .text(&item.name)
            .bigint(item.sale)
            .text(&item.size)
            .bigint(item.total_price)
            .bigint(item.nm_id)
            .text(&item.brand)
            .bigint(item.status);
    }
}

/// An order as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The order; `None` if there is none of this uid.
    pub order: Option<OrderPlaced>,
    /// The checkpoint of its partition at that moment: everything before it is in.
    pub next_offset: i64,
}

/// Reads one order and the checkpoint of its partition.
///
/// # Errors
/// If Postgres does not answer.
pub async fn find(pool: &Pool, order_uid: &str, partition: i32) -> sqlx::Result<Found> {
    let mut connection = pool.borrow().await?;
    // One statement, so that order and checkpoint are of one moment.
    let row = sqlx::query(
        "SELECT coalesce(
             (SELECT next_offset FROM millrace.checkpoints
              WHERE projection = 'orders' AND live AND partition = $2), 0),
             (SELECT json_build_object(
                 'order_uid', o.order_uid, 'track_number', o.track_number, 'entry', o.entry,
                 'delivery', json_build_object(
                     'name', d.name, 'phone', d.phone, 'zip', d.zip, 'city', d.city,
                     'address', d.address, 'region', d.region, 'email', d.email),
                 'payment', json_build_object(
                     'transaction', p.transaction, 'request_id', p.request_id,
                     'currency', p.currency, 'provider', p.provider, 'amount', p.amount,
                     'payment_dt', p.payment_dt, 'bank', p.bank,
                     'delivery_cost', p.delivery_cost, 'goods_total', p.goods_total,
                     'custom_fee', p.custom_fee),
                 'items', (SELECT json_agg(json_build_object(
                     'chrt_id', i.chrt_id, 'track_number', i.track_number, 'price', i.price,
                     'rid', i.rid, 'name', i.name, 'sale', i.sale, 'size', i.size,
                     'total_price', i.total_price, 'nm_id', i.nm_id, 'brand', i.brand,
                     'status', i.status) ORDER BY i.item_index)
                     FROM orders.items AS i WHERE i.order_uid = o.order_uid),
                 'locale', o.locale, 'internal_signature', o.internal_signature,
                 'customer_id', o.customer_id, 'delivery_service', o.delivery_service,
                 'shardkey', o.shardkey, 'sm_id', o.sm_id, 'date_created', o.date_created,
                 'oof_shard', o.oof_shard)::text
              FROM orders.orders AS o
              JOIN orders.deliveries AS d USING (order_uid)
              JOIN orders.payments AS p USING (order_uid)
              WHERE o.order_uid = $1)",
    )
    .bind(order_uid)
    .bind(partition)
    .fetch_one(&mut *connection)
    .await?;
    connection.give_back();
    let text: Option<String> = row.try_get(1)?;
    let order = text
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(Found {
        order,
        next_offset: row.try_get(0)?,
    })
}
