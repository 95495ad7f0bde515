"""The card of an export, `card.json`: what a theta belongs to, and the checks before any of it is used."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lopt.names import InputError, Spec, build

if TYPE_CHECKING:  # the PyTorch side reads cards too, and loads no JAX
    from lopt.types import LearnedOptimizer

_Rule = TypeVar("_Rule")
FORMAT = 1  # the names and the layout of an export's files
# How the inputs of the rules are computed from gradients, parameters, losses and time: which features, their order,
# decays, epsilons and normalization. Theta has meaning only with the inputs it was trained on, and no shape reveals a
# change of them: raise this number with every change that would feed an exported theta other inputs.
FEATURE_CONTRACT = 1

# What the trainer says about a theta; `save_export` fills in the rest of the card.
CARD_KEYS = ("tasks", "horizon", "meta_loss", "estimator", "outer_steps", "seed", "command")
MAX_ITEMS, MAX_DEPTH = 256, 8  # of lists in the settings: a rule makes a layer for each item of some
CHECKSUM = "card_sha256"  # exports of lopt 0.1.0 have none


def describe_optimizer(optimizer: Any) -> dict[str, Any]:
    """Architecture and settings of a rule, checked to give the same rule back.

    The architecture is its name in the table of `lopt.optimizers`, and `module:ClassName` for a rule of someone else's.

    Raises:
      InputError: it is not a frozen dataclass, or its settings are not JSON.
    """
    kind = type(optimizer)
    name = next((name for name, known in _architectures().items() if known is kind), None)
    if not (dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise InputError(
            f"{kind.__name__} cannot be exported: make the class a frozen dataclass, whose fields are its settings"
        )
    settings = {field.name: getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)}
    try:
        plain = json.loads(json.dumps(settings, allow_nan=False))
        again = kind(**as_tuples(plain))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{optimizer} cannot be exported: settings are numbers, words, None and tuples of them ({error})"
        ) from error
    if again != optimizer:
        raise InputError(f"{optimizer} cannot be exported: its settings read back as {again}")
    _check_small(plain, MAX_DEPTH)
    return {"architecture": name or f"{kind.__module__}:{kind.__qualname__}", "settings": settings}


def optimizer_of(card: Mapping[str, Any], given: "LearnedOptimizer | None") -> "LearnedOptimizer":
    """The rule that a card describes.

    Nothing is imported because the card names it. A rule of an installed package is found among those that the package
    has registered as entry points, which whoever installed it has chosen.

    Args:
      card: checked by `read_card`.
      given: the rule, for one that is not in the table of `lopt.optimizers`; it must agree with the card.

    Raises:
      InputError: the rule is unknown, or not at hand, or is not the one described.
    """
    module, _, name = card["architecture"].rpartition(":")
    if given is not None:
        described = describe_optimizer(given)
        same = described["architecture"].rpartition(":")[2] == name
        if not same or as_tuples(described["settings"]) != as_tuples(card["settings"]):
            wanted = Spec(card["architecture"], as_tuples(card["settings"]))
            raise InputError(f"theta belongs to {wanted}, and optimizer is {given}")
        return given
    if module:
        from lopt.own import foreign  # here, as few exports need it

        registered = foreign.registered_as("optimizer", card["architecture"])
        if registered is not None:
            return complete(foreign.make("optimizer", Spec(registered, as_tuples(card["settings"])), {}), card)
        raise InputError(
            f"the rule is {name} from {module}, which is not part of lopt: import it and give it, "
            f"optimizer={name}(...) with the settings {card['settings']}. Commands take it as "
            f"--optimizer=FILE.py:{Spec(name, as_tuples(card['settings']))}, and --learned as FOLDER@FILE.py:{name}..."
        )
    return complete(build("architecture", Spec(name, as_tuples(card["settings"])), _architectures()), card)


def complete(rule: _Rule, card: Mapping[str, Any]) -> _Rule:
    """The rule, if its card has all of its settings: a default of today may not be what theta was trained with.

    Raises:
      InputError: the card lacks a setting, as it is from a version that did not have it.
    """
    missing = sorted({field.name for field in dataclasses.fields(cast(Any, rule))} - set(card["settings"]))
    if missing:
        raise InputError(
            f"its card lacks {', '.join(missing)}, which {card['architecture']} has now: another version of lopt has "
            "written it, in which this was another rule. Load it with that version, or meta-train anew"
        )
    return rule


def write_card(card: Mapping[str, Any]) -> bytes:
    """The text of a card with its checksum. Raises InputError if it is not plain JSON, or lacks something."""
    try:
        plain = json.loads(json.dumps(card, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the card of an export must be plain JSON: {error}") from error
    _check_card(plain)
    return (json.dumps({**plain, CHECKSUM: checksum(plain)}, indent=2, sort_keys=True) + "\n").encode()


def read_card(text: bytes) -> dict[str, Any]:
    """The content of a card. Raises ValueError (InputError is one) or RecursionError if it cannot be used."""
    card = json.loads(text)
    _check_card(card)
    if card.get(CHECKSUM, checksum(card)) != checksum(card):
        raise InputError(f"the file is damaged, or was changed by hand ({CHECKSUM} differs)")
    return card


def checksum(card: Mapping[str, Any]) -> str:
    """SHA-256 of a card's content, without the checksum itself."""
    content = {key: value for key, value in card.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def as_tuples(value: Any) -> Any:
    """Turns lists into tuples: JSON has only lists, and settings are hashable."""
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _architectures() -> Mapping[str, Any]:
    from lopt.optimizers import OPTIMIZERS  # here, so that `import lopt` does not import Flax

    return OPTIMIZERS


def _check_card(card: Any) -> None:
    if not isinstance(card, dict):
        raise InputError("a card is a JSON object")
    for key, ours in (("format", FORMAT), ("feature_contract", FEATURE_CONTRACT)):
        version = card.get(key)
        if version != ours:
            newer = " It comes from a newer lopt: upgrade." if isinstance(version, int) and version > ours else ""
            raise InputError(f"{key} must be {ours} for this version of lopt, and is {version!r}.{newer}")
    for key, kind in (("architecture", str), ("settings", dict), ("theta_sha256", str)):
        if not isinstance(card.get(key), kind):
            raise InputError(f"{key} must be a {kind.__name__}, not {card.get(key)!r}")
    _check_small(card["settings"], MAX_DEPTH)
    _check_finite(card)
    match card.get("horizon"):
        case [int(shortest), int(longest)] if 1 <= shortest <= longest:
            return
        case other:
            raise InputError(f"horizon must be the least and the greatest number of inner steps, not {other!r}")


def _check_small(value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if not depth or len(value) > MAX_ITEMS:
            raise InputError(f"settings must have at most {MAX_ITEMS} items each, in at most {MAX_DEPTH} brackets")
        for item in value.values() if isinstance(value, dict) else value:
            _check_small(item, depth - 1)


def _check_finite(value: Any, where: str = "") -> None:
    """JSON of Python's reads NaN, Infinity and 1e999."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where.removeprefix('.')} is {value}; every number must be finite")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_finite(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_finite(item, where)
