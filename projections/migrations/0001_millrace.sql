-- What every projection shares. Written by the fold runtime and by `millrace replay`.
CREATE SCHEMA IF NOT EXISTS millrace;

-- One build of a projection's tables. The live one's schema is named after the projection.
CREATE TABLE millrace.generations (
    projection text NOT NULL,
    generation integer NOT NULL,
    -- Version of the fold that writes it; a process with another version keeps its hands off.
    version integer NOT NULL,
    -- Full name of the topic that it is a fold of.
    topic text NOT NULL,
    live boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, generation)
);
CREATE UNIQUE INDEX one_live_generation ON millrace.generations (projection) WHERE live;

-- How far a generation has applied each partition. Written in the transaction of every batch, before anything else.
CREATE TABLE millrace.checkpoints (
    projection text NOT NULL,
    generation integer NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    -- Offset of the first record that is not applied.
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    live boolean NOT NULL,
    -- Time of the newest record that is applied.
    record_at timestamptz,
    PRIMARY KEY (projection, generation, topic, partition),
    FOREIGN KEY (projection, generation) REFERENCES millrace.generations ON DELETE CASCADE
) WITH (fillfactor = 50);

-- Records that could not be decoded or folded. Written in the transaction of their batch; the bytes stay in the log.
CREATE TABLE millrace.dead_letters (
    projection text NOT NULL,
    generation integer NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    reason text NOT NULL,
    error text NOT NULL,
    -- Version of the fold that gave up on it.
    version integer NOT NULL,
    record_at timestamptz NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, generation, topic, partition, "offset"),
    FOREIGN KEY (projection, generation) REFERENCES millrace.generations ON DELETE CASCADE
);

-- What the registry said of a schema id when it was first met. It may never say anything else.
CREATE TABLE millrace.schema_ids (
    subject text NOT NULL,
    schema_id bigint NOT NULL,
    -- Fingerprint of the schema, or 'none' if the registry had no such id.
    fingerprint text NOT NULL,
    first_met_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, schema_id)
);
