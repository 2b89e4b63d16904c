-- Sales, their items and every request. Written by the fold of topic sales (processors/src/sales/history.rs).

-- A row a sale in which something was requested.
CREATE TABLE sales (
    starts_at timestamptz PRIMARY KEY,
    ends_at timestamptz NOT NULL,
    -- Its rules: how many items it has, how many of them a user may have, how long a reservation holds.
    items integer NOT NULL,
    "limit" integer NOT NULL,
    reservation_seconds integer NOT NULL,
    -- How many items are bought.
    sold integer NOT NULL,
    -- Time of the log at its newest request.
    decided_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- A row an item that was ever reserved in a sale.
CREATE TABLE items (
    sale_starts_at timestamptz NOT NULL,
    item_id integer NOT NULL,
    -- The newest reservation: the user, its end, and the record that asked for it.
    reserved_by bigint NOT NULL,
    reserved_until timestamptz NOT NULL,
    reserved_offset bigint NOT NULL,
    -- The purchase, if there was one.
    purchased_by bigint,
    purchased_at timestamptz,
    purchased_offset bigint,
    PRIMARY KEY (sale_starts_at, item_id)
) WITH (fillfactor = 70);

-- A row a request, decided or void. Codes are not here: whoever knows one can buy.
CREATE TABLE attempts (
    -- The record; its topic has one partition.
    "offset" bigint PRIMARY KEY,
    -- The sale that its time fell into; none if it is void.
    sale_starts_at timestamptz,
    -- checkout or purchase.
    kind text NOT NULL,
    -- Unknown where somebody wants to buy and cannot.
    user_id bigint,
    item_id integer,
    -- reserved, purchased, void, or the reason of a refusal.
    verdict text NOT NULL,
    -- Time of the log when it was decided.
    at timestamptz NOT NULL,
    -- End of the reservation, where it was reserved.
    expires_at timestamptz,
    -- Whether this is the verdict of an earlier request with the same key.
    is_replayed boolean NOT NULL,
    -- Whether it came with an idempotency key.
    has_key boolean NOT NULL
);
CREATE INDEX attempts_of_a_sale ON attempts (sale_starts_at, at, "offset");
