"""The only durable truth: an append-only log of sealed blocks in SQLite, group commit, cursors, keys at rest, audit."""
