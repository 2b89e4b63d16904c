-- Segments, who is and was in them, and the verdicts on requests. Written by the fold of topic segments
-- (processors/src/segments.rs).

-- A row a life of a segment, from its creation to its deletion. A later segment of the same name is another life.
CREATE TABLE segments (
    -- The record that created it.
    life bigint PRIMARY KEY,
    slug text NOT NULL,
    created_at timestamptz NOT NULL,
    -- The record that deleted it.
    deleted_offset bigint,
    deleted_at timestamptz
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX one_life_at_a_time ON segments (slug) WHERE deleted_offset IS NULL;

-- A row a time that a user was put into a segment, or that their stay there was renewed. It ends with the life, too: so
-- deleting a segment changes nothing here. And it ends at expires_at, without a record.
CREATE TABLE memberships (
    user_id bigint NOT NULL,
    life bigint NOT NULL,
    -- The record that put the user in.
    "offset" bigint NOT NULL,
    -- Whether the user was in already: then only expires_at is new.
    is_renewal boolean NOT NULL,
    added_at timestamptz NOT NULL,
    -- The first moment at which the user is not in any more; none: until removed.
    expires_at timestamptz,
    -- The record that ended it, and how: removed, renewed, or expired, which shows when the user is put in again.
    ended_offset bigint,
    ended_at timestamptz,
    ending text,
    PRIMARY KEY (user_id, life, "offset")
) WITH (fillfactor = 80);
CREATE INDEX memberships_now ON memberships (user_id, life) WHERE ended_offset IS NULL;
-- For reports that begin late.
CREATE INDEX memberships_added ON memberships (added_at);
CREATE INDEX memberships_ended ON memberships (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX memberships_expiring ON memberships (expires_at) WHERE expires_at IS NOT NULL;

-- A row an idempotency key of the last 24 hours of log time: what the first request with it was answered.
CREATE TABLE verdicts (
    key text PRIMARY KEY,
    -- The record of that request.
    "offset" bigint NOT NULL,
    -- SHA-256 of what it asked for: tells it from another request with the same key.
    digest bytea NOT NULL,
    -- created, exists, deleted, changed, or unknown.
    verdict text NOT NULL,
    -- Segments that the user was put into and taken out of, and those that do not exist; sorted.
    added text[] NOT NULL,
    removed text[] NOT NULL,
    unknown text[] NOT NULL,
    -- Time of the log when it was decided.
    at timestamptz NOT NULL
);
CREATE INDEX verdicts_by_age ON verdicts (at);

-- One row: the time of the log at its newest request that counts.
CREATE TABLE log_time (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    last_at timestamptz NOT NULL
) WITH (fillfactor = 50);
