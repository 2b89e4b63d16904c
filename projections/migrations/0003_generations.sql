-- Generations that are not live: being built, compared, or kept for a way back. Written by `millrace replay` and `verify`.
ALTER TABLE millrace.generations
    -- Made to be compared and dropped; never to be live.
    ADD COLUMN is_scratch boolean NOT NULL DEFAULT false,
    -- Whether its tables have their keys and its checkpoints are true. A build that ended before begins anew.
    ADD COLUMN is_whole boolean NOT NULL DEFAULT true,
    -- When it ceased to be live.
    ADD COLUMN retired_at timestamptz;

-- What is built just now, one row a projection. Only a lock tells whether its process still lives.
CREATE TABLE millrace.builds (
    projection text PRIMARY KEY,
    -- The command: replay, rollback, verify, …
    what text NOT NULL,
    -- Process and host.
    by_whom text NOT NULL,
    phase text NOT NULL,
    records bigint NOT NULL,
    records_total bigint NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now()
);
