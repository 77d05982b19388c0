"""pydantic's errors in our words: where (TOML path), what is wrong, how to mend it. Values are never quoted.

pydantic's own messages and the texts of foreign ``ValueError``s can hold the value, so only the error's type and its
declared limits are used (``include_input=False``), and a validator's text only when it holds nothing of the input.
"""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError

from gateway.model.errors import Issue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic_core import ErrorDetails

__all__ = ["inner_model", "issues_of", "keys_of", "suggestion"]

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: Texts shorter than this are words such as "raw": a message that holds one quotes nothing worth hiding.
_QUOTE_MIN_CHARS: Final = 4

#: error type -> (reason, fix); ``{…}`` are limits that the model declares.
_WORDS: Final[dict[str, tuple[str, str]]] = {
    "missing": ("missing", "add it"),
    "string_type": ("not text", "put it in quotes"),
    "int_type": ("not a whole number", "write digits without quotes or a point"),
    "int_parsing": ("not a whole number", "write digits without quotes or a point"),
    "int_from_float": ("not a whole number", "write digits without quotes or a point"),
    "float_type": ("not a number", "write a number without quotes"),
    "float_parsing": ("not a number", "write a number without quotes"),
    "finite_number": ("not a finite number", "write a number"),
    "bool_type": ("not true or false", "write true or false without quotes"),
    "bool_parsing": ("not true or false", "write true or false without quotes"),
    "greater_than": ("too small", "make it more than {gt:g}"),
    "greater_than_equal": ("too small", "make it at least {ge:g}"),
    "less_than": ("too large", "make it less than {lt:g}"),
    "less_than_equal": ("too large", "make it at most {le:g}"),
    "literal_error": ("not one of the known words", "write {expected}"),
    "enum": ("not one of the known words", "write {expected}"),
    "string_pattern_mismatch": (
        "has characters that are not allowed",
        "begin with a letter or digit and use letters, digits, _ and - (at most 63)",
    ),
    "string_too_short": ("too short", "write at least {min_length} characters"),
    "string_too_long": ("too long", "write at most {max_length} characters"),
    "too_short": ("too few", "give at least {min_length}"),
    "too_long": ("too many", "give at most {max_length}"),
    "list_type": ("not a list", "write [ … ]"),
    "tuple_type": ("not a list", "write [ … ]"),
    "set_type": ("not a list", "write [ … ]"),
    "frozen_set_type": ("not a list", "write [ … ]"),
    "dict_type": ("not a table", "write { key = … }"),
    "model_type": ("not a table", "write {{ key = … }}"),
    "model_attributes_type": ("not a table", "write {{ key = … }}"),
    "path_type": ("not a file name", "put a path in quotes"),
}
_UNKNOWN: Final = ("not usable", "see the example of this setting in the README")


def issues_of(error: ValidationError, model: type[BaseModel], place: str, data: object) -> tuple[Issue, ...]:
    """Every problem of one table, each once; ``place`` is the table's path."""
    found: dict[str, Issue] = {}
    for details in error.errors(include_input=False, include_url=False):
        issue = _issue(details, model, place, data)
        found.setdefault(issue.path, issue)
    return tuple(found.values())


def _issue(details: ErrorDetails, model: type[BaseModel], place: str, data: object) -> Issue:
    kind, context = details["type"], details.get("ctx", {})
    path, holder = _path(details["loc"], model, place)
    match kind:
        case "extra_forbidden":
            return _unknown_key(details["loc"], holder, path)
        case "wrong":
            return Issue(path, context["reason"], context["fix"])
        case "value_error" | "assertion_error":
            return Issue(path, _own_text(context.get("error"), data), _UNKNOWN[1])
        case _:
            reason, fix = _WORDS.get(kind, _UNKNOWN)
            return Issue(path, reason, _filled(fix, context))


def _filled(fix: str, context: dict[str, Any]) -> str:
    try:
        return fix.format(**context)
    except (KeyError, ValueError, IndexError):
        return fix


def _own_text(error: object, data: object) -> str:
    """The validator's text, unless it holds something of what it was given."""
    text = str(error) if isinstance(error, Exception) else ""
    if not text or any(leaf in text for leaf in _leaves(data)):
        return _UNKNOWN[0]
    return text


def _leaves(data: object) -> Iterable[str]:
    if isinstance(data, dict):
        for value in data.values():
            yield from _leaves(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _leaves(value)
    elif len(text := str(data)) >= _QUOTE_MIN_CHARS:
        yield text


def _path(location: Sequence[int | str], model: type[BaseModel], place: str) -> tuple[str, type[BaseModel] | None]:
    """The TOML path and the model of the table that holds its last part; labels of unions in ``location`` are left out."""
    holder: type[BaseModel] | None = model
    inner: type[BaseModel] | None = model
    path = place
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif inner is not None and part in keys_of(inner):
            holder, path = inner, f"{path}.{part}"
            inner = inner_model(inner, part)
        elif part is location[-1] and _PLAIN_KEY.fullmatch(part) and inner is not None:
            holder, path = inner, f"{path}.{part}"
    return path, holder


def keys_of(model: type[BaseModel]) -> dict[str, str]:
    """Key as written in TOML -> name of the field."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


def inner_model(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The table that the value of ``key`` is (or that a list there holds), None where it is a plain value."""
    return _find_model(model.model_fields[keys_of(model)[key]].annotation)


def _find_model(annotation: object) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        if found := _find_model(argument):
            return found
    return None


def _unknown_key(location: Sequence[int | str], holder: type[BaseModel] | None, path: str) -> Issue:
    key = str(location[-1])
    known = sorted(keys_of(holder)) if holder is not None else []
    if not _PLAIN_KEY.fullmatch(key):
        return Issue(path, "has a key that no setting has", f"known here: {', '.join(known)}")
    return Issue(path, "unknown key", suggestion(key, known))


def suggestion(word: str, known: Sequence[str]) -> str:
    """``did you mean …?`` or the list of what there is."""
    if near := difflib.get_close_matches(word, known, n=1, cutoff=0.6):
        return f"did you mean {near[0]}?"
    return f"known here: {', '.join(known)}" if known else "remove it"
