"""Names that people type: looking one up, reading its settings, and the error when something is wrong."""

import ast
import contextlib
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class InputError(ValueError):
    """Something a person asked for cannot be done. The message says what was wrong, what is allowed, what to do."""


class Spec(NamedTuple):
    """A name with settings, as typed: `mlp:hidden_sizes=(4,4):learn_decays=True`."""

    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{key}={_write_value(value)}" for key, value in self.settings.items())])


def parse_spec(text: str) -> Spec:
    """Reads `NAME[:key=value]...`. A value is a Python literal, or a bare word, which stands for itself."""
    name, *parts = text.strip().split(":")
    settings = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"cannot read {part!r} in {text!r}: write NAME:setting=value:setting=value")
        try:
            settings[key] = _read_value(value)
        except (ValueError, SyntaxError):
            raise InputError(f"cannot read the value of {key!r} in {text!r}: {value!r}") from None
    return Spec(name, settings)


def _read_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if re.fullmatch(r"[\w./-]+", text):
            return text
        raise


def _write_value(value: Any) -> str:
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            if _read_value(value) == value:
                return value
    return repr(value).replace(" ", "")


def split_list(text: str) -> list[str]:
    """Splits at the commas outside of parentheses and brackets; drops empty items."""
    items = re.split(r",(?![^(\[]*[)\]])", text)
    return [item.strip() for item in items if item.strip()]


def check_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises InputError unless `name` is one of `known`; names the nearest and lists them all."""
    known = sorted(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")


def build(kind: str, spec: Spec, table: Mapping[str, Callable[..., Any]], **defaults: Any) -> Any:
    """Makes the object that `spec` names: `table[name](**defaults, **settings)`, for a table of dataclasses.

    Raises:
      InputError: unknown name, unknown setting, or a setting that the constructor refuses.
    """
    check_known(kind, spec.name, table)
    constructor = table[spec.name]
    fields = {field.name for field in dataclasses.fields(constructor)}  # type: ignore[arg-type]
    for key in spec.settings:
        check_known(f"setting of {kind} {spec.name!r}:", key, fields)
    try:
        return constructor(**{**{k: v for k, v in defaults.items() if k in fields}, **spec.settings})
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{kind} {spec}: {error}") from error
