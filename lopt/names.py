"""Names with settings, as people type them: reading, looking up, checking, and the errors when something is wrong."""

import ast
import builtins
import contextlib
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# What a person writes for a value of a type: one of them, and some of them.
_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    str: ("a word", "words in quotes"),
    types.NoneType: ("None", "None"),
}
_EXAMPLES = {int: (32, 32), float: (0.1, 0.2), bool: (True, False), str: ("bias", "scale")}
# Fields that no text after a name can hold, and the flag that sets them.
_FLAGS = {"horizon": "--horizon", "layout": "--devices"}


MAX_WHOLE = 2**31 - 1  # the largest int32, which is what JAX counts with


class InputError(ValueError):
    """What was asked for cannot be done. The message says what was wrong, what is allowed, and what to do."""


class Spec(NamedTuple):
    """A name with settings, as typed: `mlp:hidden_sizes=(4,4):step_scale=0.01`."""

    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{key}={_write_value(value)}" for key, value in self.settings.items())])


def parse_spec(text: str) -> Spec:
    """Reads `NAME[:key=value]...`. A value is a Python literal, or a bare word, which stands for itself.

    A name may be that of a class, with the file or module that it is in: `my_rules.py:MyRule:width=8`.
    """
    name, *parts = text.strip().split(":")
    if parts and re.fullmatch(r"[^\W\d][\w.]*", parts[0]) and ("." in name or parts[0][0].isupper()):
        name = f"{name}:{parts.pop(0)}"
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
    """Splits at commas outside parentheses and brackets, and drops empty items."""
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
      InputError: unknown name, unknown setting, a setting that is not of its field's type, or one that the constructor
        refuses.
    """
    check_known(kind, spec.name, table)
    constructor = table[spec.name]
    fields = {field.name: field for field in dataclasses.fields(constructor)}  # type: ignore[arg-type]
    check_settings(kind, spec, constructor)
    try:
        return constructor(**{**{k: v for k, v in defaults.items() if k in fields}, **spec.settings})
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{kind} {spec}: {error}") from error


def spell(made: Any, table: Mapping[str, Callable[..., Any]]) -> str:
    """The text that stands for an object that `build` makes from this table: `mlp:hidden_sizes=(4,4)`.

    Settings at their defaults, and those that no text can hold, are left out. An object of a class outside of the table
    is spelled with its module and class, `my_rules:MyRule:width=8`.
    """
    kind = type(made)
    name = next((name for name, known in table.items() if known is kind), None)
    values = {}
    if dataclasses.is_dataclass(made):
        values = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
        defaults = {field.name: field.default for field in dataclasses.fields(made)}
        annotations = typing.get_type_hints(kind) if name else {}  # those of other people may name what is not imported
        values = {
            key: value
            for key, value in values.items()
            if (_wanted(annotations[key], None) if name else _is_plain(value)) and value != defaults[key]
        }
    return str(Spec(name or f"{kind.__module__}:{kind.__qualname__}", values))


def _is_plain(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, bool | int | float | str)
        or (isinstance(value, tuple) and all(map(_is_plain, value)))
    )


def check_settings(kind: str, spec: Spec, constructor: Any) -> None:
    """Raises InputError unless each setting is a field of the dataclass `constructor`, of the type annotated there."""
    try:
        annotations = typing.get_type_hints(constructor)
    except Exception as error:  # those of other people may name what is not imported
        raise InputError(f"{kind} {spec.name}: the types of its fields cannot be read: {error}") from error
    fields = {field.name: field for field in dataclasses.fields(constructor)}
    written = [name for name in fields if _wanted(annotations[name], None)]
    for key, value in spec.settings.items():
        if key in fields and key not in written:
            how = f"the flag {_FLAGS[key]} sets it" if key in _FLAGS else "it cannot be written as text"
            raise InputError(f"{kind} {spec.name}: {key} is not set here; {how}")
        check_known(f"setting of {kind} {spec.name!r}:", key, written)
        if not fits(value, annotations[key]):
            wanted = _wanted(annotations[key], fields[key].default)
            raise InputError(f"{kind} {spec.name}: {key} must be {wanted}, not {_write_value(value)}")


def check_numbers(kind: str, made: Any) -> None:
    """Raises InputError unless every number among a dataclass's settings is finite, and whole ones fit into an int32.

    Looks into tuples and into dataclasses within; what is no dataclass passes.
    """
    for name, value in _numbers("", made):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{kind}: {name} must be a finite number, not {value}")
        if isinstance(value, int) and abs(value) > MAX_WHOLE:
            raise InputError(f"{kind}: {name} must be at most {MAX_WHOLE:,}, not {value:,}")


def _numbers(name: str, value: Any) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, tuple):
        for item in value:
            yield from _numbers(name, item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _numbers(field.name, getattr(value, field.name))


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a type that settings have. An int is a float, and a bool is no number."""
    arguments = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case types.UnionType | typing.Union:
            return any(fits(value, argument) for argument in arguments)
        case typing.Literal:
            return any(type(value) is type(argument) and value == argument for argument in arguments)
        case builtins.tuple:
            if not isinstance(value, tuple):
                return False
            if arguments[1:] == (...,):
                arguments = arguments[:1] * len(value)
            return len(value) == len(arguments) and all(map(fits, value, arguments))
    if isinstance(value, bool) or annotation not in _WORDS:
        return annotation is bool and isinstance(value, bool)
    return isinstance(value, int | float if annotation is float else annotation)


def _wanted(annotation: Any, default: Any) -> str:
    """What a person may write for a type, empty where there is nothing; a default that is a tuple is the example."""
    arguments = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case types.UnionType | typing.Union:
            wanted = [_wanted(argument, default) for argument in arguments]
            return " or ".join(wanted) if all(wanted) else ""
        case typing.Literal:
            return " or ".join(map(_write_value, arguments))
        case builtins.tuple if arguments and arguments[0] in _EXAMPLES:
            number = "" if arguments[1:] == (...,) else f"{len(arguments)} "
            example = default if isinstance(default, tuple) and default else _EXAMPLES[arguments[0]]
            return f"{number}{_WORDS[arguments[0]][1]} in brackets, as {_write_value(example)}"
    return _WORDS[annotation][0] if annotation in _WORDS else ""
