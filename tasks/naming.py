"""What a task family is called: its settings as a person would type them."""

import dataclasses
from typing import Any

from lopt.names import Spec

# Metadata of a field that is not a setting: the name has the data set already, and the data set decides the others.
UNNAMED = {"unnamed": True}


def settings(family_type: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a family, or of its class, that a person sets."""
    return [field for field in dataclasses.fields(family_type) if not field.metadata.get("unnamed")]


def family_name(family: Any, head: str) -> str:
    """`head`, followed by `:setting=value` for each setting that is not the default."""
    values = {field.name: getattr(family, field.name) for field in settings(family)}
    defaults = {field.name: field.default for field in settings(family)}
    return str(Spec(head, {name: value for name, value in values.items() if value != defaults[name]}))
