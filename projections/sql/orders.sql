-- Orders as they were placed. Written by the fold of topic orders (processors/src/orders.rs).
CREATE TABLE orders (
    order_uid text PRIMARY KEY,
    track_number text NOT NULL,
    entry text NOT NULL,
    locale text NOT NULL,
    internal_signature text NOT NULL,
    customer_id text NOT NULL,
    delivery_service text NOT NULL,
    shardkey text NOT NULL,
    sm_id bigint NOT NULL,
    -- The text that came.
    date_created text NOT NULL,
    oof_shard text NOT NULL,
    -- The record that this order came in.
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    -- Time of that record, milliseconds since 1970-01-01T00:00:00Z.
    record_at_ms bigint NOT NULL,
    -- SHA-256 of the order's content: tells a repetition from another order of the same uid.
    digest bytea NOT NULL
);

CREATE TABLE deliveries (
    order_uid text PRIMARY KEY REFERENCES orders ON DELETE CASCADE,
    name text NOT NULL,
    phone text NOT NULL,
    zip text NOT NULL,
    city text NOT NULL,
    address text NOT NULL,
    region text NOT NULL,
    email text NOT NULL
);

-- Amounts in minor units of the currency.
CREATE TABLE payments (
    order_uid text PRIMARY KEY REFERENCES orders ON DELETE CASCADE,
    transaction text NOT NULL,
    request_id text NOT NULL,
    currency text NOT NULL,
    provider text NOT NULL,
    amount bigint NOT NULL,
    -- Seconds since 1970-01-01T00:00:00Z.
    payment_dt bigint NOT NULL,
    bank text NOT NULL,
    delivery_cost bigint NOT NULL,
    goods_total bigint NOT NULL,
    custom_fee bigint NOT NULL
);

CREATE TABLE items (
    order_uid text NOT NULL REFERENCES orders ON DELETE CASCADE,
    -- Place in the order's list, from 0.
    item_index integer NOT NULL,
    chrt_id bigint NOT NULL,
    track_number text NOT NULL,
    price bigint NOT NULL,
    rid text NOT NULL,
    name text NOT NULL,
    sale bigint NOT NULL,
    size text NOT NULL,
    total_price bigint NOT NULL,
    nm_id bigint NOT NULL,
    brand text NOT NULL,
    status bigint NOT NULL,
    PRIMARY KEY (order_uid, item_index)
);
