"""Dataclasses of results as plain JSON, and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> Any:
    """Plain JSON of a result, or of lists and dicts of results."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: Any, value: Any) -> Any:
    """The inverse of `to_json`.

    Args:
      kind: a class of this module, or list, dict and None of such.
      value: what `to_json` returned.

    Raises:
      ValueError: fields that the class does not have, or lacks here.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if value is None or kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return from_json(next(part for part in parts if part is not type(None)), value)
    if origin in (list, tuple):
        return origin(from_json(parts[0], item) for item in value)
    if origin is dict:
        return {key: from_json(parts[1], item) for key, item in value.items()}
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return value
    hints = typing.get_type_hints(kind)
    if differing := sorted(set(value) ^ set(hints)):
        raise ValueError(f"{kind.__name__}: unknown or absent fields: {', '.join(differing)}")
    return kind(**{name: from_json(hints[name], item) for name, item in value.items()})
