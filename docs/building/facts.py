"""What a page says of the code, as Markdown, read from where it is stated once."""

from pathlib import Path

import jax

import lopt
from lopt.optimizers import OPTIMIZERS
from lopt.trained.shipped import READS, Shipped, state_numbers


def row_of(page: Path, name: str) -> dict[str, str]:
    """The row of a page's table of costs that begins with a name in code marks, by the heads of its columns.

    Raises:
      KeyError: the page has no such row.
    """
    head: list[str] = []
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        head = head if cells and head else cells
        if cells and cells[0] == f"`{name}`" and "carries" in head:
            return dict(zip(head, cells, strict=True))
    raise KeyError(f"{page.name} has no row of costs for {name}")


def cost(docs: Path, name: str) -> list[str]:
    """What an estimator costs, from the table of `estimators.md`."""
    row = row_of(docs / "estimators.md", name)
    return [
        f"It runs {row['inner steps per estimate']} inner steps per estimate of one pair or trajectory, carries "
        f"{row['carries']} numbers from one estimate to the next, and needs a working memory of the order of "
        f"{row['working memory']}. The [table of costs](../estimators.md#costs) has all methods side by side, and says "
        "what the letters mean."
    ]


def rule(docs: Path, name: str) -> list[str]:
    """What a learned optimizer with its default settings needs, and which trained ones of it ship."""
    del docs
    fresh = OPTIMIZERS[name]()
    theta = jax.eval_shape(fresh.init_theta, jax.random.key(0))
    reads = ", ".join(["the gradient", *(word for key, word in READS.items() if key in fresh.requires)])
    ships = [f"`{row.name}`" for row in lopt.shipped().values() if row.rule == name]
    return [
        "| it reads | numbers learned | numbers kept per parameter | trained ones that ship |",
        "|---|---|---|---|",
        f"| {reads} | {sum(leaf.size for leaf in jax.tree.leaves(theta)):,} | {state_numbers(fresh):.3g} "
        f"| {', '.join(ships) or 'none'} |",
    ]


def shipped(docs: Path, name: str) -> list[str]:
    """All trained optimizers that ship."""
    del docs, name

    def line(row: Shipped) -> str:
        weights = f"{row.weights:,}"
        steps = "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}".join(f"{x:,}" for x in row.horizon)
        page = f"[`{row.rule}`](optimizers/{row.rule}.md)"
        return f"| `{row.name}` | {page} | {', '.join(row.reads)} | {weights} | {row.state:.3g} | {steps} |"

    head = ["| name | rule | reads | learned | kept | steps |"]
    return [*head, "|---|---|---|---|---|---|", *map(line, lopt.shipped().values())]
