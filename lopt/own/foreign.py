"""Tasks, rules and estimators of other people: from a name to a class of a file, a module or an installed package.

`my_rules.py:MyRule:width=8` is the class `MyRule` of a file, `my_package.rules:MyRule:width=8` that of a module, and a
plain name that lopt does not know is looked for among the entry points of installed packages, in the groups `GROUPS`.

To read such a name runs other people's code. So only what a person asked for, as a flag or an argument, comes here as
it is; what a card says is asked by `names_code` first.
"""

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lopt.names import InputError, Spec, build, check_known


class Kind(NamedTuple):
    """A kind of things that other people write.

    Attributes:
      group: the group of entry points.
      protocol: the type in `lopt.types` that says what one has.
      members: the attributes of one.
    """

    group: str
    protocol: str
    members: tuple[str, ...]


KINDS = {
    "task family": Kind("lopt.tasks", "TaskFamily", ("name", "streams", "load", "sample", "task", "sample_batch")),
    "optimizer": Kind("lopt.optimizers", "LearnedOptimizer", ("requires", "init_theta", "init", "update")),
    "estimator": Kind("lopt.estimators", "GradientEstimator", ("init", "estimate")),
}


def is_place(name: str) -> bool:
    """Whether a name without its settings says where to find something: `my_rules.py:MyRule`."""
    return ":" in name


def names_code(text: str) -> bool:
    """Whether a text, of one thing or of many, names a file or a module; then reading the text runs the code."""
    return not all(re.match(r"\s*\w+=", part) for part in text.split(":")[1:])  # whatever lies between two colons


def make(kind: str, spec: Spec, table: Mapping[str, Any], **defaults: Any) -> Any:
    """Makes what `spec` names, as `lopt.names.build` does, of lopt's own table or of other people's code.

    Args:
      kind: a key of `KINDS`.
      spec: the name and the settings.
      table: lopt's own, by name. Its names win over those of entry points.
      **defaults: settings for those that have them.

    Raises:
      InputError: nothing has this name, its code cannot be run, it lacks what the kind has, or a setting is wrong.
    """
    if spec.name in table:
        return build(kind, spec, table, **defaults)
    found = _at_place(kind, spec.name, table) if is_place(spec.name) else _registered(kind, spec.name, table)
    if not isinstance(found, type):
        if spec.settings or kind == "estimator":
            raise InputError(f"{kind} {spec.name} is an object, which has its settings already: name its class instead")
        made = found
    elif not dataclasses.is_dataclass(found):
        raise InputError(f"{kind} {spec.name} must be a frozen dataclass, whose fields are its settings")
    else:
        made = build(kind, spec, {spec.name: found}, **defaults)
    check_members(kind, made, spec.name)
    return made


def check_members(kind: str, made: Any, name: str) -> None:
    """Raises InputError unless an object has what its kind has."""
    protocol = f"lopt.types.{KINDS[kind].protocol} says what one has"
    article = "an" if kind[0] in "aeiou" else "a"
    if isinstance(made, type):
        raise InputError(f"{name} is no {kind}: give an instance of the class. {protocol}")
    if missing := [member for member in KINDS[kind].members if not hasattr(made, member)]:
        raise InputError(f"{name} is no {kind}: it has no {', '.join(missing)}. {protocol}")
    try:
        hash(made)
    except TypeError as error:
        raise InputError(
            f"{name}: {article} {kind} must be hashable, and equal where its settings are ({error}): make it a frozen "
            "dataclass whose fields are numbers, words and tuples"
        ) from error


def registered(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points of installed packages for a kind, by name; none of them is loaded."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=KINDS[kind].group)}


def registered_as(kind: str, place: str) -> str | None:
    """The name under which an installed package has registered the class `module:ClassName`; None if none has.

    Only packages that begin with the same name are asked, and run.
    """
    package = place.partition(":")[0].partition(".")[0]
    for name, entry in registered(kind).items():
        if entry.module.partition(".")[0] == package:
            found = _load_entry(kind, entry)
            if f"{getattr(found, '__module__', '')}:{getattr(found, '__qualname__', '')}" == place:
                return name
    return None


def _registered(kind: str, name: str, table: Iterable[str]) -> Any:
    entries = registered(kind)
    if name.endswith(".py"):
        raise InputError(f"say which {kind} of {name}: {name}:NAME")
    check_known(kind, name, {*table, *entries})
    return _load_entry(kind, entries[name])


def _load_entry(kind: str, entry: importlib.metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # whatever the package raises
        raise InputError(f"{kind} {entry.name!r}, which is {entry.value}, cannot be loaded: {_told(error)}") from error


def _at_place(kind: str, name: str, table: Iterable[str]) -> Any:
    where, _, attribute = name.rpartition(":")
    if where in table:
        raise InputError(f"cannot read {attribute!r} in {name!r}: write NAME:setting=value:setting=value")
    module = _import_file(where) if where.endswith(".py") else _import_module(where)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            check_known(f"{kind} in {where}:", attribute, _candidates(kind, module))
        found = getattr(found, part, None)
    return found


def _candidates(kind: str, module: types.ModuleType) -> list[str]:
    """What in a module may be meant: its classes and objects that have the members of the kind."""
    members = KINDS[kind].members

    def fits(value: Any) -> bool:
        fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
        return all(member in fields or hasattr(value, member) for member in members)

    return [name for name, value in vars(module).items() if not name.startswith("_") and fits(value)]


def _import_file(text: str) -> types.ModuleType:
    """The file as the module of its name; its folder goes to the end of the path, so that it finds its neighbours."""
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        near = sorted(str(Path(text).parent / other.name) for other in path.parent.glob("*.py"))
        check_known("file", text, near or ["none in that folder"])
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    there = sys.modules.get(path.stem) or _find_spec(path.stem)
    origin = getattr(there, "origin", None) or getattr(there, "__file__", None)
    if origin is None or Path(origin).resolve() != path:
        raise InputError(
            f"{text}: there is another module {path.stem!r}, {origin or 'built into Python'}: rename the file"
        )
    return _import(path.stem, text)


def _import_module(name: str) -> types.ModuleType:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise InputError(f"{name!r} is neither a Python file, which ends in .py, nor the name of a module")
    if name not in sys.modules and _find_spec(name) is None:
        raise InputError(f"there is no module {name!r}: install it, or give its file, FILE.py:NAME")
    return _import(name, name)


def _find_spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # its parent is missing, fails, or is no package
        return None


def _import(module: str, shown: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except InputError:
        raise
    except Exception as error:  # whatever the code raises
        raise InputError(f"{shown} cannot be run: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """An exception of other people's code, with the line that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f", in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
