"""What an experiment reached beside what it must reach: printed, written with its figure, and an exit status."""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from rich.console import Console

from experiments.common import Job, Run, run_all
from lopt.evaluation.curve_plots import DPI
from lopt.figures import COLOURS, to_png
from lopt.files import write_atomic
from lopt.locks import FolderLock
from lopt.names import InputError
from lopt.version import versions

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of all figures; methods that would look alike in grey differ in style, width or marker.
STYLES = {
    "pes": {"color": COLOURS[0], "linewidth": 2.6, "linestyle": "-", "zorder": 8},
    "nres": {"color": COLOURS[2], "linewidth": 1.8, "linestyle": (0, (5, 1.5)), "zorder": 9},
    "full_es": {"color": COLOURS[1], "linewidth": 1.6, "linestyle": "-.", "zorder": 7},
    "rtrl": {"color": COLOURS[3], "linewidth": 1.8, "linestyle": (0, (1, 1)), "zorder": 10},
    "uoro": {"color": COLOURS[7], "linewidth": 1.1, "linestyle": "-", "zorder": 4},
    "truncated_es": {"color": COLOURS[4], "linewidth": 2.2, "linestyle": (0, (1, 1.6)), "zorder": 6},
    "tbptt": {"color": COLOURS[5], "linewidth": 1.6, "linestyle": "-", "zorder": 5},
    "bptt": {"color": COLOURS[6], "linewidth": 1.4, "linestyle": (0, (3, 1, 1, 1, 1, 1)), "zorder": 3},
}
NAMES = {
    "pes": "PES",
    "nres": "NRES",
    "full_es": "full ES",
    "rtrl": "RTRL",
    "uoro": "UORO",
    "truncated_es": "truncated ES",
    "tbptt": "TBPTT",
    "bptt": "BPTT",
}


class Finding(NamedTuple):
    """One number that a method reached, and the open interval that it must lie in; without bounds, it is only reported.

    A number that is not finite comes from a run that diverged: it counts as above everything.
    """

    what: str
    reached: float
    above: float = -math.inf
    below: float = math.inf

    @property
    def required(self) -> str:
        bounds = (f"> {self.above:.6g}", f"< {self.below:.6g}")
        return " and ".join(text for text, x in zip(bounds, self[2:], strict=True) if math.isfinite(x)) or "-"

    @property
    def holds(self) -> bool:
        reached = self.reached if math.isfinite(self.reached) else math.inf
        return bool(reached > self.above and (reached < self.below or self.below == math.inf))


class Experiment(NamedTuple):
    """All that the command needs.

    Attributes:
      name: the module's, and that of its folder of results.
      jobs: `(quick) -> {label: job}`.
      findings: `(quick, runs) -> {label: findings}`.
      draw: `(quick, runs) -> figure`.
      constants: those of the problem, as plain values.
      x64: whether float64 is needed.
    """

    name: str
    jobs: Callable[[bool], Mapping[str, Job]]
    findings: Callable[[bool, Mapping[str, Run]], Mapping[str, list[Finding]]]
    draw: Callable[[bool, Mapping[str, Run]], "Figure"]
    constants: Mapping[str, Any]
    x64: bool


def main(experiment: Experiment, description: str, arguments: list[str] | None = None) -> int:
    """The command: runs the experiment, writes `numbers.json` and `figure.png`, returns 0 if all findings hold."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{experiment.name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, with a weaker finding")
    parser.add_argument(
        "--out", type=Path, help=f"folder; default: results/{experiment.name}; with --quick, a new temporary folder"
    )
    parser.add_argument("--seed", type=int, default=3, help="of everything random; default: 3, as in the paper's code")
    args = parser.parse_args(arguments)
    out = args.out or (Path(tempfile.mkdtemp()) if args.quick else Path("results")) / experiment.name
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FolderLock(out, "give another --out") as lock, jax.enable_x64(experiment.x64):
            lock.take()  # else the numbers of one seed could end beside the figure of another
            numbers, figure = _measure(experiment, args.quick, args.seed)
            write_atomic(out / "numbers.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
            write_atomic(out / "figure.png", to_png(figure))
    except (InputError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    print(table(numbers))
    print(f"{numbers['seconds']:.0f} s, {out}/numbers.json, {out}/figure.png")
    return 0 if numbers["holds"] else 1


def _measure(experiment: Experiment, quick: bool, seed: int) -> tuple[dict[str, Any], "Figure"]:
    began = time.monotonic()
    jobs = experiment.jobs(quick)
    runs = run_all(jobs, jax.random.key(seed))
    findings = experiment.findings(quick, runs)
    figure = experiment.draw(quick, runs)
    methods = {
        label: {
            "settings": jobs[label].describe(),
            "seconds": round(runs[label].seconds, 2),
            "findings": [_row(finding) for finding in findings[label]],
        }
        for label in jobs
    }
    numbers = {
        "experiment": experiment.name,
        "quick": quick,
        "seed": seed,
        "precision": "float64" if experiment.x64 else "float32",
        "constants": dict(experiment.constants),
        "versions": versions(),
        "device": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "seconds": round(time.monotonic() - began, 2),
        "holds": all(finding.holds for rows in findings.values() for finding in rows),
        "methods": methods,
    }
    return numbers, figure


def _row(finding: Finding) -> dict[str, Any]:
    # JSON has no NaN and no infinity.
    reached = float(f"{finding.reached:.6g}") if math.isfinite(finding.reached) else None
    return {"what": finding.what, "reached": reached, "required": finding.required, "holds": finding.holds}


def table(numbers: Mapping[str, Any]) -> str:
    """One line per finding: method, measure, reached, required, whether it holds."""
    lines = [("method", "measure", "reached", "required", "")]
    for label, method in numbers["methods"].items():
        for row in method["findings"]:
            reached = "not finite" if row["reached"] is None else f"{row['reached']:.4g}"
            verdict = "" if row["required"] == "-" else "holds" if row["holds"] else "DOES NOT HOLD"
            lines.append((label, row["what"], reached, row["required"], verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def new_figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def tidy(axes: "Axes") -> None:
    """No frame on top and right, and a faint grid of values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
