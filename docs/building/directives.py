"""Directives that stand for the Markdown of `facts.py`; each may be given a name: `{cost} pes`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from docs.building.facts import cost, rule, shipped


def directive(text: Callable[[Path, str], list[str]]) -> type[Directive]:
    """The directive of a function from the folder of the pages and a name to lines."""

    class Facts(Directive):
        optional_arguments = 1
        __doc__ = inspect.getdoc(text)

        def run(self) -> list[nodes.Node]:
            environment = self.state.document.settings.env
            environment.note_dependency(str(Path(environment.srcdir) / "estimators.md"))
            lines = text(Path(environment.srcdir), self.arguments[0] if self.arguments else "")
            node = nodes.container()
            self.state.nested_parse(StringList(lines, self.name), self.content_offset, node)
            return node.children

    return Facts


def setup(app: Any) -> dict[str, bool]:
    for text in (cost, rule, shipped):
        app.add_directive(text.__name__, directive(text))
    return {"parallel_read_safe": True}
