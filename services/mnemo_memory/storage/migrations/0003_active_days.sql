-- Only adds, as 0002 does: the release before it goes on reading and writing beside this one, and erases spaces without
-- knowing of this table.

-- The days, of UTC, on which a space was used. A day that is over weakens the links of type 9 (co_recalled) once; `faded` says
-- that it has. Until then `reached_*` name the last link, by creation, that it has weakened; null before the first.
CREATE TABLE memory.active_days (
    space_uid uuid NOT NULL REFERENCES memory.spaces (uid) ON DELETE CASCADE,
    day date NOT NULL,
    faded boolean NOT NULL DEFAULT false,
    reached_at timestamptz,
    reached_source uuid,
    reached_target uuid,
    PRIMARY KEY (space_uid, day)
);
CREATE INDEX active_days_unfaded ON memory.active_days (space_uid, day) WHERE NOT faded;

-- The links that fade, in the order in which they do; and how many of them are new.
CREATE INDEX associations_co_recalled ON memory.associations (space_uid, created_at, source, target) WHERE type = 9;
