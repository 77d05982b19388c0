"""The shipped OpenAPI document as a judge of requests and answers."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def document() -> dict[str, Any]:
    text = files("gateway.receiver").joinpath("openapi.json").read_bytes()
    loaded: dict[str, Any] = orjson.loads(text)
    return loaded


def flaws(schema: Mapping[str, Any], value: object) -> list[str]:
    """Where ``value`` does not keep to ``schema`` (a schema of the document); empty = it does."""
    whole = {"components": document()["components"], "allOf": [schema]}
    return [f"{error.json_path}: {error.validator}" for error in Draft202012Validator(whole).iter_errors(value)]


def named(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def request_flaws(headers: Mapping[str, str], batch: bytes) -> list[str]:
    """What is wrong with a request to deliver events. ``headers`` in lower case, ``batch`` decoded."""
    operation = document()["paths"]["/v1/events"]["post"]
    found = []
    for parameter in operation["parameters"]:
        value = headers.get(parameter["name"].lower())
        if value is not None:
            found += [f"{parameter['name']}: {flaw}" for flaw in flaws(parameter["schema"], value)]
        elif parameter["required"]:
            found.append(f"{parameter['name']}: missing")
    kinds = operation["requestBody"]["content"]
    if headers.get("content-type") not in kinds:
        return [*found, "Content-Type"]
    return found + flaws(kinds[headers["content-type"]]["schema"], orjson.loads(batch))


def answer_flaws(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> list[str]:
    """What is wrong with an answer. ``headers`` in lower case."""
    responses = document()["paths"][path][method.lower()]["responses"]
    response = responses.get(str(status), responses.get("default"))
    if response is None:
        return [f"{status}: not in the document"]
    found = [
        f"{name}: missing" for name, said in response.get("headers", {}).items() if said.get("required") and name.lower() not in headers
    ]
    kind = headers.get("content-type", "").split(";")[0]
    if kind not in response.get("content", {}):
        return [*found, f"content type {kind}"]
    return found + flaws(response["content"][kind]["schema"], orjson.loads(body))
