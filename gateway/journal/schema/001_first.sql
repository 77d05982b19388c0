-- Journal, schema 1. One writer, WAL, synchronous=FULL. Nothing here is ever UPDATEd on the hot path; there is no random
-- index. In clear: numbers, times, traffic classes and names of configuration; everything else is in the sealed columns.

-- One row per start of the daemon. Blocks and commit rows of commits >= first_commit (up to the next row) were sealed under it.
CREATE TABLE incarnation (
    id INTEGER PRIMARY KEY,
    uuid BLOB NOT NULL,
    first_commit INTEGER NOT NULL,
    started_us INTEGER NOT NULL
);

-- The same rows on another page: without its incarnation no row can be opened, and one bad page must not cost everything.
-- Only salvage reads it.
CREATE TABLE incarnation_twin (
    id INTEGER PRIMARY KEY,
    uuid BLOB NOT NULL,
    first_commit INTEGER NOT NULL,
    started_us INTEGER NOT NULL
);
CREATE TRIGGER incarnation_twice AFTER INSERT ON incarnation BEGIN
    INSERT INTO incarnation_twin (id, uuid, first_commit, started_us) VALUES (new.id, new.uuid, new.first_commit, new.started_us);
END;

-- One row per commit and traffic class (split at 512 messages / 256 KiB): id = commit << 12 | ordinal, so that the order of
-- ids is the order of commits. seq is assigned in arrival order over all classes of the commit: readers merge its blocks by seq.
-- census: JSON [[source, route, messages], ...], so that an unreadable block still says what it held.
-- size: bytes of the plaintext. sealed is last (the columns before it are read without its overflow pages); NULL = quarantined.
CREATE TABLE block (
    id INTEGER PRIMARY KEY,
    class INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    n INTEGER NOT NULL,
    census BLOB NOT NULL,
    at_us INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sealed BLOB
);

-- One row per commit (id = its number, consecutive): audit, tags of its blocks, state of the journal after it, duplicate keys.
CREATE TABLE commit_meta (
    id INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    sealed BLOB NOT NULL
);

-- Messages of which a route has something to remember: id = seq << 16 | route number. state: 1 held, 2 dead letter, 3 requeued,
-- 4 delivered, 5 filtered, 6 gap (4 to 6 are done: they keep the last revision until their block goes).
-- sealed NULL: the content is in the block (requeued from a range: the row pins it) or no longer needed.
CREATE TABLE exception (
    id INTEGER PRIMARY KEY,
    route INTEGER NOT NULL,
    state INTEGER NOT NULL,
    class INTEGER NOT NULL,
    laneseq INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    block_commit INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    sealed BLOB
);
CREATE INDEX exception_by_state ON exception (state, route, id);

-- Ring of refused frames (1 % of the quota).
CREATE TABLE refused (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    sealed BLOB NOT NULL
);

-- Block rows that could not be opened, as they were found; id as in block. Never deleted by the program.
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    reason TEXT NOT NULL,
    sealed BLOB
);

-- One row, replaced: the watchdog's round trip on an idle box.
CREATE TABLE probe (
    id INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    sealed BLOB NOT NULL
);
