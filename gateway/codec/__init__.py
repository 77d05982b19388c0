"""Protocols without I/O: bytes in, events out; events in, bytes out. A codec never acknowledges."""
