"""Kinds of sources: each binds a transport and a codec to the journal. Bytes come in, are made durable, then acknowledged."""
