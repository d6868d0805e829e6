# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Frozen dataclasses from JSON and back; an error names the path in the data."""

from __future__ import annotations

import dataclasses
import enum
import typing as t

T = t.TypeVar("T")


class RecordError(ValueError):
    """The data do not have the declared shape; the text says where and what was expected."""


def read(cls: t.Type[T], data: object, where: str = "") -> T:
    """Build a dataclass from a mapping; unknown keys are left out."""
    if not isinstance(data, dict):
        raise RecordError(f"{where or cls.__name__}: expected a mapping, found {data!r}")
    hints = t.get_type_hints(cls)
    values: t.Dict[str, t.Any] = {}
    for field in dataclasses.fields(t.cast(t.Any, cls)):
        path = f"{where}/{field.name}"
        if field.name in data:
            values[field.name] = _value(hints[field.name], data[field.name], path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecordError(f"{path}: missing")
    return cls(**values)


def plain(value: object) -> t.Any:
    """The value as JSON has it: mappings, lists, strings, numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _value(hint: t.Any, data: object, where: str) -> t.Any:
    origin, arguments = t.get_origin(hint), t.get_args(hint)
    if hint is t.Any:
        return data
    if origin is t.Union:
        if data is None:
            return None
        (inner,) = [a for a in arguments if a is not type(None)]
        return _value(inner, data, where)
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise RecordError(f"{where}: expected a list, found {data!r}")
        return tuple(_value(arguments[0], item, f"{where}/{i}") for i, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict):
            raise RecordError(f"{where}: expected a mapping, found {data!r}")
        return {str(k): _value(arguments[1], v, f"{where}/{k}") for k, v in data.items()}
    if dataclasses.is_dataclass(hint):
        return read(t.cast(t.Type[t.Any], hint), data, where)
    if issubclass(hint, enum.Enum):
        try:
            return hint(data)
        except ValueError:
            allowed = ", ".join(str(member.value) for member in hint)
            raise RecordError(f"{where}: expected one of {allowed}, found {data!r}") from None
    return _scalar(hint, data, where)


def _scalar(hint: t.Any, data: object, where: str) -> t.Any:
    if hint is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        return float(data)
    if isinstance(data, hint) and (hint is bool or not isinstance(data, bool)):
        return data
    raise RecordError(f"{where}: expected {hint.__name__}, found {data!r}")
