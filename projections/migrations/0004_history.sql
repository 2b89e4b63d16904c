-- What tells the log that was applied from another one of the same name. Written by the fold runtime.
ALTER TABLE millrace.generations
    -- Ids that the cluster and the topic got when they were made. NULL until a fold has asked, empty where nobody tells.
    ADD COLUMN cluster_id text,
    ADD COLUMN topic_id text,
    -- Rises when rows change behind the checkpoints, as when a dead letter is folded after all: caches forget.
    ADD COLUMN revision integer NOT NULL DEFAULT 0;

ALTER TABLE millrace.checkpoints
    -- The last record that was applied, and SHA-256 of all that it says. NULL before the first.
    ADD COLUMN last_offset bigint,
    ADD COLUMN last_fingerprint bytea;
