-- Clicks per banner and minute. Written by the fold of topic clicks (processors/src/clicks.rs).
CREATE TABLE stats (
    banner_id bigint NOT NULL,
    -- Beginning of the UTC minute.
    ts timestamptz NOT NULL,
    -- Partition of the topic: writers never share a row, and readers add up at most eight.
    partition integer NOT NULL,
    -- How many clicks.
    v bigint NOT NULL,
    PRIMARY KEY (banner_id, ts, partition)
) WITH (fillfactor = 70);
