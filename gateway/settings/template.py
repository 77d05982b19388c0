"""The ``gateway.toml`` that ``init`` writes: complete, commented, and running as it stands."""

from __future__ import annotations

from typing import Final

__all__ = ["template"]

_TEXT: Final = """\
# Configuration of one edge gateway. Check it with
#     edge-gateway check -c gateway.toml
# Relative paths are relative to this file. Unknown keys are errors. Secrets are references to files, never values.

[gateway]
id = "{gateway_id}"                 # part of every event id: choose it once (a-z, 0-9 and "-")
state_dir = "state"                # the journal: sealed, and all that must survive; keep it on a reliable disk
time_zone = "{time_zone}"                  # for senders that give no UTC offset

[keys]
provider = "file"                  # "systemd-credential" in production: see the README, section "Keys"
path = "keys/kek"                  # without this file the journal cannot be read: keep a copy in a safe place

[admin]
listen = "127.0.0.1:8686"          # /healthz /readyz /metrics

# Where messages come from: HL7 v2 over MLLP.
[[source]]
name = "adt"
type = "mllp"
listen = "127.0.0.1:2575"          # "0.0.0.0:2575" for senders on other machines; then set allow or tls too
# allow = ["10.20.0.0/16"]         # networks that may connect; default: any
# senders = [{{ app = "MON", facility = "ICU" }}]   # MSH-3 and MSH-4 that may send; default: any
# tls = {{ cert = {{ file = "tls/cert.pem" }}, key = {{ file = "tls/key.pem" }}, client_ca = {{ file = "tls/ca.pem" }} }}

# Where they go. This one writes them IN CLEAR TEXT to a file, so that you see something at once.
[[sink]]
name = "archive"
type = "file"
path = "out/messages.ndjson"

# The usual destination: put its address here, and its name into the route below.
# [[sink]]
# name = "cloud"
# type = "https"
# url = "https://ingest.example.org/v1/events"
# token = {{ file = "keys/token" }}

# Which sources go where. Every message of these sources is delivered or accounted for.
[[route]]
name = "everything"
from = "*"                         # or a list: ["adt"]
to = "archive"

# [journal]                        # all optional; 0 = scaled to the file system
# quota_bytes = 0
# reserve_bytes = 0
# dedupe_keys = 100000
# retain_days = 7
"""


def template(gateway_id: str, time_zone: str = "UTC") -> str:
    """The text of a first configuration: an ``mllp`` source on loopback, a ``file`` sink, one route."""
    return _TEXT.format(gateway_id=gateway_id, time_zone=time_zone)
