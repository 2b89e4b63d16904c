-- Checkouts that were refused without the log of the sale. Written by the fold of topic sale-attempts
-- (processors/src/sale_attempts.rs).
CREATE TABLE attempts (
    -- The record.
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    sale_starts_at timestamptz NOT NULL,
    user_id bigint NOT NULL,
    item_id integer NOT NULL,
    -- The reason of the refusal.
    verdict text NOT NULL,
    -- When it was refused, by the clock of the process that did.
    at timestamptz NOT NULL,
    -- Everything before this offset of topic sales was known then.
    decided_at_offset bigint NOT NULL,
    PRIMARY KEY (partition, "offset")
);
CREATE INDEX attempts_of_a_sale ON attempts (sale_starts_at, at, partition, "offset");
