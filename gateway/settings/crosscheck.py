"""What one table alone cannot tell: names, references between tables, addresses, and what deserves a warning."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gateway.model.errors import Issue
from gateway.model.message import GATEWAY_SOURCE
from gateway.settings.configuration import name_of
from gateway.settings.fields import ListenAddress, is_loopback
from gateway.settings.problems import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydantic import BaseModel

    from gateway.settings.tables import RouteTable

__all__ = ["Declared", "crosscheck"]

_CREDENTIALS_IN_URL: Final = re.compile(r"^[a-z][a-z0-9+.-]*://[^/@]*@")


@dataclass(frozen=True, slots=True)
class Declared:
    """Names as the file declares them, also of tables that are not well formed; so one mistake is reported once."""

    sources: Sequence[str]
    sinks: Sequence[str]
    routes: Sequence[str]


def crosscheck(
    tables: Mapping[str, Any],
    sources: Sequence[BaseModel],
    sinks: Sequence[BaseModel],
    routes: Sequence[RouteTable],
    declared: Declared,
) -> list[Issue]:
    """Every problem between tables that are well formed each by itself. Looks at no file."""
    return [
        *_names("source", declared.sources),
        *_names("sink", declared.sinks),
        *_names("route", declared.routes),
        *_reserved(declared.sources),
        *_routes(routes, declared),
        *_addresses(tables, sources),
        *_keys(tables),
        *_urls(sinks),
        *_kinds_own("source", sources),
        *_kinds_own("sink", sinks),
        *_clear_text(tables, sinks),
        *_unused(routes, declared),
    ]


def _names(array: str, names: Iterable[str]) -> Iterator[Issue]:
    for name, count in Counter(names).items():
        if count > 1:
            yield Issue(f"{array}[{name}].name", f"{count} tables have this name", f"give each {array} a name of its own")


def _reserved(sources: Sequence[str]) -> Iterator[Issue]:
    if GATEWAY_SOURCE in sources:
        reason = "this name stands for events that the gateway makes itself"
        yield Issue(f"source[{GATEWAY_SOURCE}].name", reason, "choose another name")


def _routes(routes: Sequence[RouteTable], declared: Declared) -> Iterator[Issue]:
    for route in routes:
        for index, name in enumerate(route.sources or ()):
            if name not in declared.sources:
                yield Issue(f"route[{route.name}].from[{index}]", "no source has this name", suggestion(name, declared.sources))
        if route.sources and len(set(route.sources)) < len(route.sources):
            yield Issue(f"route[{route.name}].from", "names a source twice", "name each source once")
        if route.sink not in declared.sinks:
            yield Issue(f"route[{route.name}].to", "no sink has this name", suggestion(route.sink, declared.sinks))


def _listeners(tables: Mapping[str, Any], sources: Sequence[BaseModel]) -> Iterator[tuple[str, ListenAddress]]:
    for source in sources:
        listen = getattr(source, "listen", None)
        address = ListenAddress.parse(listen) if isinstance(listen, str) else listen
        if isinstance(address, ListenAddress):
            yield f"source[{name_of(source)}].listen", address
    admin = tables.get("admin")
    if admin is not None and admin.listen is not None:
        yield "admin.listen", admin.listen


def _addresses(tables: Mapping[str, Any], sources: Sequence[BaseModel]) -> Iterator[Issue]:
    seen: list[tuple[str, ListenAddress]] = []
    for path, address in _listeners(tables, sources):
        for other, taken in seen:
            if address.port and address.port == taken.port and _overlap(address.host, taken.host):
                yield Issue(path, f"{other} listens at the same address", "give one of them another port")
                break
        seen.append((path, address))


def _overlap(one: str, other: str) -> bool:
    """Whether two hosts can mean the same socket: equal, one of them any address, or two names of loopback."""
    same = "127.0.0.1" if one == "localhost" else one, "127.0.0.1" if other == "localhost" else other
    return same[0] == same[1] or any(_is_any(host) for host in same)


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _keys(tables: Mapping[str, Any]) -> Iterator[Issue]:
    gateway, keys = tables.get("gateway"), tables.get("keys")
    if gateway is None or keys is None or keys.provider != "file":
        return
    state = _real(gateway.state_dir)
    if _real(keys.path).is_relative_to(state):
        reason = "lies inside gateway.state_dir, so a copy of the journal would carry its key"
        yield Issue("keys.path", reason, 'move the key file and name its new place, such as "keys/kek"')


def _real(path: Path) -> Path:
    """Without links, as far as the path exists; symlink loops leave it as it is."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path


def _urls(sinks: Sequence[BaseModel]) -> Iterator[Issue]:
    for sink in sinks:
        for field in ("url", "proxy"):
            text = getattr(sink, field, None)
            if text is not None:
                yield from _url(
                    f"sink[{name_of(sink)}].{field}", str(text), insecure=bool(getattr(sink, "insecure", False)), proxy=field == "proxy"
                )


def _url(path: str, text: str, *, insecure: bool, proxy: bool) -> Iterator[Issue]:
    if _CREDENTIALS_IN_URL.match(text):
        yield Issue(path, "holds credentials", "a secret is a reference, never a value: use token = { file = … }")
    try:
        parts = urlsplit(text)
        host, scheme = parts.hostname or "", parts.scheme
    except ValueError:
        host, scheme = "", ""
    if scheme not in ("http", "https") or not host:
        yield Issue(path, "not an http(s) address", 'write it in full, such as "https://ingest.example.org/v1/events"')
    elif scheme == "http" and not proxy and not is_loopback(host):
        if insecure:
            yield Issue(path, "sends patient data unencrypted over the network", "use https:// as soon as the destination can", fatal=False)
        else:
            yield Issue(
                path, "http:// would send patient data unencrypted", "use https://, or set insecure = true where the network is trusted"
            )


def _kinds_own(array: str, tables: Sequence[BaseModel]) -> Iterator[Issue]:
    """What the kind itself has to say (``lint`` of its model)."""
    for table in tables:
        own = getattr(table, "lint", None)
        if callable(own):
            for issue in own():
                yield Issue(f"{array}[{name_of(table)}].{issue.path}", issue.reason, issue.fix, issue.fatal)


def _clear_text(tables: Mapping[str, Any], sinks: Sequence[BaseModel]) -> Iterator[Issue]:
    paths: Counter[Path] = Counter()
    for sink in sinks:
        if getattr(sink, "type", "") != "file":
            continue
        place = f"sink[{name_of(sink)}]"
        yield Issue(
            place, "writes messages in clear text (mode 0600)", "make sure that the disk and its backups are protected", fatal=False
        )
        path = getattr(sink, "path", None)
        if not isinstance(path, Path):
            continue
        paths[path] += 1
        if paths[path] > 1:
            yield Issue(f"{place}.path", "another sink writes to the same place", "give each file sink a path of its own")
        gateway = tables.get("gateway")
        if gateway is not None and _real(path).is_relative_to(_real(gateway.state_dir)):
            yield Issue(f"{place}.path", "lies inside gateway.state_dir, which holds nothing in clear text", "choose a place outside of it")


def _unused(routes: Sequence[RouteTable], declared: Declared) -> Iterator[Issue]:
    if not declared.sources:
        yield Issue("source", "there is none: the gateway has nothing to listen to", "add a [[source]] table", fatal=False)
    if len(routes) < len(declared.routes):
        return  # a route that is not well formed may be the one that takes them
    served = {name for route in routes for name in (declared.sources if route.sources is None else route.sources)}
    for name in dict.fromkeys(declared.sources):
        if name not in served:
            reason = "no route takes its messages: they are stored and acknowledged, and go nowhere"
            yield Issue(f"source[{name}]", reason, "name it in the from of a [[route]]", fatal=False)
    used = {route.sink for route in routes}
    for name in dict.fromkeys(declared.sinks):
        if name not in used:
            yield Issue(f"sink[{name}]", "no route leads to it", "name it in the to of a [[route]], or remove it", fatal=False)
