"""From file to configuration. ``load`` raises with every problem at once; ``lint`` also looks at the files it names."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError

from gateway.model.errors import ConfigurationError, Issue
from gateway.settings.configuration import Configuration
from gateway.settings.crosscheck import Declared, crosscheck
from gateway.settings.files import check_files
from gateway.settings.problems import issues_of, suggestion
from gateway.settings.tables import TABLES, RouteTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.settings.kinds import Kinds

__all__ = ["lint", "load"]

#: Larger than any configuration, smaller than what would hurt.
_MAX_BYTES: Final = 4 * 1024 * 1024
_ARRAYS: Final = ("source", "sink", "route")
_REQUIRED: Final = ("gateway", "keys")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_WHERE: Final = re.compile(r"\(at (line \d+, column \d+|end of document)\)")


@dataclass(slots=True)
class _Reading:
    """Tables that could be read and problems met on the way."""

    base: Path
    tables: dict[str, Any] = field(default_factory=dict)
    sources: list[BaseModel] = field(default_factory=list)
    sinks: list[BaseModel] = field(default_factory=list)
    routes: list[RouteTable] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: str, reason: str, fix: str) -> None:
        self.issues.append(Issue(path, reason, fix))


def load(path: Path, kinds: Kinds) -> Configuration:
    """The configuration of that file. Raises ``ConfigurationError`` with every fatal issue; does not look at other files."""
    document, issues = _document(path)
    reading = _read(document, kinds, path.absolute().parent) if document is not None else _Reading(path.parent)
    issues += reading.issues
    if document is not None:
        issues += _between(reading)
    if fatal := tuple(issue for issue in issues if issue.fatal):
        raise ConfigurationError(fatal)
    return Configuration(
        path=path.absolute(),
        gateway=reading.tables["gateway"],
        keys=reading.tables["keys"],
        admin=reading.tables["admin"],
        journal=reading.tables["journal"],
        sources=tuple(reading.sources),
        sinks=tuple(reading.sinks),
        routes=tuple(reading.routes),
        digest=_digest(document or {}),
        warnings=tuple(issues),
    )


def lint(path: Path, kinds: Kinds, credentials_directory: Path | None = None) -> tuple[Issue, ...]:
    """Every problem and warning of that file and of the files it names; empty = nothing to say. Raises nothing."""
    document, issues = _document(path)
    if document is None:
        return tuple(issues)
    reading = _read(document, kinds, path.absolute().parent)
    issues += reading.issues
    issues += _between(reading)
    issues += check_files(path, reading.tables, reading.sources, reading.sinks, credentials_directory)
    return tuple(sorted(dict.fromkeys(issues), key=lambda issue: not issue.fatal))


def _between(reading: _Reading) -> list[Issue]:
    declared = Declared(*(reading.names.get(array, []) for array in _ARRAYS))
    return crosscheck(reading.tables, reading.sources, reading.sinks, reading.routes, declared)


def _document(path: Path) -> tuple[dict[str, Any] | None, list[Issue]]:
    """The parsed document, or None and why."""
    raw = _raw(path)
    if isinstance(raw, Issue):
        return None, [raw]
    try:
        return tomllib.loads(raw.decode("utf-8-sig")), []
    except UnicodeDecodeError:
        return None, [Issue(str(path), "is not UTF-8 text", "save it as UTF-8")]
    except RecursionError:
        return None, [Issue(str(path), "is nested far too deeply", "no setting is nested more than three levels deep")]
    except tomllib.TOMLDecodeError as error:
        # The parser's message can quote the line; only the position is ours to show.
        where = match[1] if (match := _WHERE.search(str(error))) else "some line"
        fix = "look there: text needs quotes, a key stands once in a table, [x] is a table and [[x]] one of several"
        return None, [Issue(str(path), f"is not TOML at {where}", fix)]


def _raw(path: Path) -> bytes | Issue:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return Issue(str(path), "does not exist", "give the path of a gateway.toml, or make one with `edge-gateway init DIR`")
    except IsADirectoryError:
        return Issue(str(path), "is a directory", f"give the file in it, such as {path / 'gateway.toml'}")
    except (OSError, ValueError):
        return Issue(str(path), "cannot be read", "check its owner and mode, and those of the directories above it")
    return raw if len(raw) <= _MAX_BYTES else Issue(str(path), "is larger than 4 MiB", "give a configuration file")


def _read(document: Mapping[str, Any], kinds: Kinds, base: Path) -> _Reading:
    reading = _Reading(base)
    known = (*TABLES, *_ARRAYS)
    for key in document:
        if key not in known:
            plain = key if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) else "(a key)"
            reading.add(plain, "unknown table", suggestion(key, known))
    for name, model in TABLES.items():
        _read_table(reading, document, name, model)
    for name, known_kinds in (("source", kinds.sources), ("sink", kinds.sinks)):
        into = reading.sources if name == "source" else reading.sinks
        for index, data in enumerate(_array(reading, document, name)):
            if (table := _read_kind(reading, data, place_of(name, index, data), known_kinds)) is not None:
                into.append(table)
    for index, data in enumerate(_array(reading, document, "route")):
        place = place_of("route", index, data)
        if isinstance(table := _validated(reading, RouteTable, data, place), RouteTable):
            reading.routes.append(table)
    return reading


def place_of(array: str, index: int, data: object) -> str:
    """``source[adt]``, or ``source[#1]`` where it has no usable name."""
    name = data.get("name") if isinstance(data, dict) else None
    plain = isinstance(name, str) and _NAME.fullmatch(name)
    return f"{array}[{name}]" if plain else f"{array}[#{index + 1}]"


def _read_table(reading: _Reading, document: Mapping[str, Any], name: str, model: type[BaseModel]) -> None:
    data = document.get(name)
    if data is None:
        if name in _REQUIRED:
            reading.add(name, "missing", f"add a [{name}] table; `edge-gateway init DIR` writes an example")
            return
        data = {}
    if not isinstance(data, dict):
        reading.add(name, "not a table", f"write [{name}] once, on a line of its own")
        return
    if (table := _validated(reading, model, data, name)) is not None:
        reading.tables[name] = table


def _array(reading: _Reading, document: Mapping[str, Any], name: str) -> list[Any]:
    found = document.get(name, [])
    tables = found if isinstance(found, list) else [found]
    # names count even where the form is wrong, so that a route to it is not a second problem
    named = [data["name"] for data in tables if isinstance(data, dict) and isinstance(data.get("name"), str)]
    reading.names[name] = [text for text in named if _NAME.fullmatch(text)]
    if isinstance(found, list) and all(isinstance(data, dict) for data in found):
        return found
    reading.add(name, "not a list of tables", f"write [[{name}]] with two brackets, once for each {name}")
    return []


def _read_kind(reading: _Reading, data: dict[str, Any], place: str, kinds: Mapping[str, type[BaseModel]]) -> BaseModel | None:
    kind = data.get("type")
    if kind is None:
        reading.add(f"{place}.type", "missing", f"add type = {_alternatives(kinds)}")
        return None
    if not isinstance(kind, str) or kind not in kinds:
        fix = suggestion(kind, sorted(kinds)) if isinstance(kind, str) else f"write {_alternatives(kinds)}"
        reading.add(f"{place}.type", "no such kind in this version", fix)
        return None
    return _validated(reading, kinds[kind], data, place)


def _alternatives(kinds: Mapping[str, object]) -> str:
    return " or ".join(f'"{kind}"' for kind in sorted(kinds))


def _validated(reading: _Reading, model: type[BaseModel], data: object, place: str) -> BaseModel | None:
    try:
        table = model.model_validate(data)
    except ValidationError as error:
        reading.issues += issues_of(error, model, place, data)
        return None
    return anchored(table, reading.base)


def anchored(table: BaseModel, base: Path) -> BaseModel:
    """The same table with every relative path made absolute against ``base``."""
    update = {name: _anchored(value, base) for name in type(table).model_fields if _has_path(value := getattr(table, name))}
    return table.model_copy(update=update) if update else table


def _has_path(value: object) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_has_path, value))
    return isinstance(value, Path | BaseModel)


def _anchored(value: object, base: Path) -> object:
    match value:
        case Path():
            return base / value
        case BaseModel():
            return anchored(value, base)
        case tuple():
            return tuple(_anchored(item, base) for item in value)
        case list():
            return [_anchored(item, base) for item in value]
        case _:
            return value


def _digest(document: Mapping[str, Any]) -> str:
    # not orjson: it refuses integers above 64 bits, which TOML has
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
