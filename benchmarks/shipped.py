"""What ships, in one picture: quality against cost. `python -m benchmarks.shipped [TASKS=FOLDER[,FOLDER]...]`

The quality comes from evaluations, folders that `lopt eval --out=FOLDER` has written; docs/shipped.md has the commands:

    python -m benchmarks.shipped pool_valid=runs/pool_valid held_out=runs/held_out

What the picture needs of them is kept in results/shipped/quality.json, per set of tasks. Where none is named, the
picture is drawn anew from there. The cost is the time of an update beside Adam's, of several measurements:

    for i in 1 2 3; do
      python -m benchmarks.apply --busy --sizes=1e6 --rows=runs/costs_$i.jsonl \\
        adam muon prodigy blend blend:orthogonalize=False blend:anytime=True
    done
    cat runs/costs_?.jsonl > results/shipped/costs.jsonl

The picture, results/shipped/cost.png, has a row per set of tasks.
"""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.apply import RATIO
from lopt.evaluation.ratios import geometric_mean
from lopt.evaluation.style import DPI, FAINT
from lopt.figures import COLOURS, to_png
from lopt.files import write_atomic
from lopt.names import InputError
from lopt.trained.shipped import shipped_folders

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parents[1] / "results" / "shipped"
QUALITY, COSTS, PICTURE = FOLDER / "quality.json", FOLDER / "costs.jsonl", FOLDER / "cost.png"
MEASURES = {"train": "training loss", "valid": "validation loss"}
TICKS = (0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)


class Drawn(NamedTuple):
    """How an optimizer is drawn.

    Attributes:
      label: what the picture calls it.
      rule: whose cost it has, as `benchmarks.apply` names it; settings that change no time are left out.
      marker: of matplotlib; hollow for what was tuned on each task.
      colour: of `COLOURS`.
    """

    label: str
    rule: str
    marker: str
    colour: int


# By the name in an evaluation, in the order of drawing: the last is on top.
DRAWN = {
    "adam_cosine": Drawn("Adam + cosine, tuned on each task", "adam", "s", 1),
    "adam_default": Drawn("Adam at 0.001", "adam", "v", 1),
    "muon_cosine": Drawn("Muon + cosine, tuned on each task", "muon", "o", 2),
    "prodigy_cosine": Drawn("Prodigy + cosine", "prodigy", "P", 6),
    "blend_fit": Drawn("blend_fit", "blend", "D", 4),
    "blend_cheap": Drawn("blend_cheap", "blend:orthogonalize=False", "s", 3),
    "blend_anytime": Drawn("blend_anytime", "blend:anytime=True", "^", 5),
    "blend": Drawn("blend", "blend", "o", 0),
}


def read_quality(folders: Iterable[Path]) -> dict[str, Any]:
    """What is kept of evaluations of different tasks by one command: ratios by task and optimizer, and their origin.

    Raises:
      InputError: a folder has no evaluation of `blend`, or one of weights that do not ship.
    """
    kept: dict[str, Any] = {"ratios": {}}
    for folder in folders:
        file = folder / "summary.json"
        if not file.is_file():
            raise InputError(f"{folder} has no summary.json; give the --out of a finished lopt eval --checkpoint=blend")
        summary = json.loads(file.read_text())
        weights = {summary["checkpoint"]: summary["theta_sha256"], **summary["configuration"]["learned"]}
        for name, checksum in weights.items():
            if checksum != shipped_checksums().get(name):
                raise InputError(f"{folder} evaluates {name} with weights that do not ship; run its command again")
        for task in summary["tasks"]:
            rows = {row["optimizer"]: row for row in task["rows"]}
            rows[summary["checkpoint"]] = rows.pop("learned")
            kept["ratios"][task["name"]] = {
                name: {key: float(f"{rows[name][f'{key}_ratio']:.6g}") for key in MEASURES}
                for name in DRAWN
                if name in rows
            }
        kept |= {key: summary["setting"][key] for key in ("horizon", "num_seeds")}
        kept |= {"created": summary["created"], "versions": summary["versions"], "theta_sha256": weights}
    return kept


def shipped_checksums() -> dict[str, str]:
    """The checksum of theta of each optimizer that ships, by name."""
    cards = {name: json.loads((folder / "card.json").read_text()) for name, folder in shipped_folders().items()}
    return {name: card["theta_sha256"] for name, card in cards.items()}


def means(kept: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Geometric means over the tasks, by optimizer and measure, of those that took part in all tasks."""
    tasks = list(kept["ratios"].values())
    names = [name for name in DRAWN if all(name in ratios for ratios in tasks)]
    return {name: {key: geometric_mean(ratios[name][key] for ratios in tasks) for key in MEASURES} for name in names}


def read_costs(file: Path) -> dict[str, list[float]]:
    """Times of an update in those of Adam, by rule, one for each model that was measured."""
    costs: dict[str, list[float]] = {}
    for line in file.read_text().splitlines():
        (rule, _, _), row, _ = json.loads(line)
        costs.setdefault(rule, []).append(float(row[RATIO]))
    return costs


def draw(quality: Mapping[str, Any], costs: Mapping[str, Sequence[float]]) -> "Figure":
    """A row of panels per set of tasks and a column per measure; bars are ranges of costs over models."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 2.8 * len(quality) + 1), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(quality), len(MEASURES), sharex=True, sharey=True, squeeze=False)
    for row, (tasks, kept) in zip(panels, quality.items(), strict=True):
        found = means(kept)
        for axes, (measure, title) in zip(row, MEASURES.items(), strict=True):
            _draw_panel(axes, {name: found[name][measure] for name in found}, costs)
            axes.set_title(f"{title}, {len(kept['ratios'])} tasks of {tasks}", fontsize=10, loc="left")
    low, high = panels[0, 0].get_ylim()
    panels[0, 0].set_yticks([x for x in TICKS if low < x < high])
    for axes in panels[-1]:
        axes.set_xlabel("time of an update, in updates of Adam")
    figure.supylabel("loss at the end, over that of tuned Adam", fontsize=10)
    named = max(panels[:, 0], key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    figure.legend(*named.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_panel(axes: "Axes", ratios: Mapping[str, float], costs: Mapping[str, Sequence[float]]) -> None:
    axes.axhline(1, color=FAINT, linewidth=1, zorder=0)
    for name, ratio in ratios.items():
        label, rule, marker, colour = DRAWN[name]
        low, high = min(costs[rule]), max(costs[rule])
        own: dict[str, Any] = {"color": COLOURS[colour], "zorder": 3}
        hollow: dict[str, Any] = {"markerfacecolor": "white"} if "tuned" in label else {}
        axes.plot([low, high], [ratio, ratio], linewidth=1.6, **own)
        axes.plot(
            (low * high) ** 0.5, ratio, linestyle="none", marker=marker, markersize=8, label=label, **own, **hollow
        )
    axes.set(xscale="log", yscale="log")
    axes.set_xticks([1, 3, 10, 30, 100])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)


def parse_evaluations(texts: Iterable[str]) -> dict[str, list[Path]]:
    """The folders of each set of tasks as typed, `TASKS=FOLDER[,FOLDER]...`."""
    found = {}
    for text in texts:
        tasks, equals, folders = text.partition("=")
        if not (tasks and equals and folders):
            raise InputError(
                f"an evaluation is TASKS=FOLDER[,FOLDER]..., such as pool_valid=runs/pool_valid, not {text!r}"
            )
        found[tasks] = [Path(folder) for folder in folders.split(",")]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Quality against cost of what ships; see the module's docstring.")
    parser.add_argument("evaluations", nargs="*", help="TASKS=FOLDER[,FOLDER]...; default: draw anew what was kept")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of quality.json and cost.png")
    args = parser.parse_args(arguments)
    try:
        quality = json.loads(QUALITY.read_text()) if QUALITY.exists() else {}
        quality |= {tasks: read_quality(folders) for tasks, folders in parse_evaluations(args.evaluations).items()}
        picture = args.out / PICTURE.name
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(args.out / QUALITY.name, json.dumps(quality, indent=1, allow_nan=False) + "\n")
        write_atomic(picture, to_png(draw(quality, read_costs(COSTS))))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
