-- What all processes of an installation know and nobody else does. Made here, once, and never changed: what was signed
-- with it can be told from what somebody made up, by any process.
CREATE TABLE millrace.secrets (
    -- What it is for.
    name text PRIMARY KEY,
    -- 244 random bits.
    secret bytea NOT NULL
);
INSERT INTO millrace.secrets (name, secret)
VALUES ('reports', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
