-- Users as they were set last. Written by the fold of topic users (processors/src/users.rs).
CREATE TABLE users (
    user_id text COLLATE "C" PRIMARY KEY,
    -- Both are NULL once the user was removed: the row stays, or an earlier record that is folded late would bring the
    -- user back.
    deeplink text,
    promo_message text,
    -- The record that the row reflects.
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    CHECK ((deeplink IS NULL) = (promo_message IS NULL))
);
