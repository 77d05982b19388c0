-- The books of the reference receiver. Every statement can run again on an existing store.

-- In the order of first arrival: a gateway makes a new incarnation at every start.
CREATE TABLE IF NOT EXISTS incarnation (
    id INTEGER PRIMARY KEY,
    gateway TEXT NOT NULL,
    uuid TEXT NOT NULL,
    first_us INTEGER NOT NULL,
    events INTEGER NOT NULL DEFAULT 0,
    first_seq INTEGER NOT NULL DEFAULT 0,
    last_seq INTEGER NOT NULL DEFAULT 0,
    UNIQUE (gateway, uuid)
) STRICT;

-- One row per event id: the revision in force and its digest. part = -1 where the id has none.
CREATE TABLE IF NOT EXISTS event (
    incarnation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    part INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (incarnation, seq, part)
) STRICT, WITHOUT ROWID;

-- Revisions that are not in force, so that a late resend of one is still recognised.
CREATE TABLE IF NOT EXISTS superseded (
    incarnation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    part INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (incarnation, seq, part, revision)
) STRICT, WITHOUT ROWID;

-- The revision in force, only with --keep-payloads. In clear: it is what the site sent.
CREATE TABLE IF NOT EXISTS payload (
    incarnation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    part INTEGER NOT NULL,
    type TEXT NOT NULL,
    source TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (incarnation, seq, part)
) STRICT;

CREATE TABLE IF NOT EXISTS lane (
    id INTEGER PRIMARY KEY,
    gateway TEXT NOT NULL,
    name TEXT NOT NULL,
    high INTEGER NOT NULL DEFAULT 0,
    reused INTEGER NOT NULL DEFAULT 0,
    UNIQUE (gateway, name)
) STRICT;

-- Numbers up to lane.high that were neither applied nor declared. first..last inclusive, never overlapping.
CREATE TABLE IF NOT EXISTS missing (
    lane INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (lane, first)
) STRICT, WITHOUT ROWID;

-- What gateway.gap events declared, as they said it.
CREATE TABLE IF NOT EXISTS declared (
    lane INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (lane, first, last)
) STRICT, WITHOUT ROWID;

-- The latest alarms: the same (id, revision) with another content. Bounded by the store.
CREATE TABLE IF NOT EXISTS conflict (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    event TEXT NOT NULL,
    revision INTEGER NOT NULL,
    kept BLOB NOT NULL,
    offered BLOB NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS total (
    name TEXT PRIMARY KEY,
    n INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
