"""The two ratios that decide: where trainings end, over where tuned Adam ends.

Of the training loss, the reference is Adam with a cosine schedule, tuned for it on every task; of the validation loss,
it is whichever of Adam at a constant rate and Adam with the cosine was lower on the tuning seeds, each at its own best
rate for that. In the untuned protocol, the reference of both is Adam with the cosine at one rate for all tasks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lopt.evaluation.measures import MEASURES
from lopt.evaluation.ratios import Losses, Ratios, geometric_mean, task_ratios
from lopt.evaluation.results import Curves, Entry, TaskResult

TRAIN_REFERENCE, VALID_REFERENCES = "adam_cosine", ("adam", "adam_cosine")
PROTOCOLS = ("tuned", "untuned")
UNTUNED = "_untuned"  # ends the name of the entry of a baseline that has one setting for all tasks


def end_losses(train: Curves, valid: Curves) -> Losses:
    """Final losses of some runs and validation losses of others."""
    return Losses(MEASURES["final_loss"](train), MEASURES["valid_loss"](valid))


def references(entries: Mapping[str, Entry], protocol: str = "tuned") -> Losses | None:
    """The losses of the reference on the evaluation seeds, `[S]`; None where it does not take part."""
    if protocol == "untuned":
        entry = entries.get(TRAIN_REFERENCE + UNTUNED)
        return entry and _own_losses(entry)
    if TRAIN_REFERENCE not in entries:
        return None
    valid = min((entries[name] for name in VALID_REFERENCES), key=_tuning_valid_loss)
    return end_losses(entries[TRAIN_REFERENCE].chosen["final_loss"], valid.chosen["valid_loss"])


def ratios_of(result: TaskResult, protocol: str = "tuned") -> dict[str, Ratios]:
    """The ratios of every entry of a protocol; {} where there is no reference, or a loss is below 0."""
    reference = references(result.entries, protocol)
    losses = {name: _own_losses(entry) for name, entry in result.entries.items() if belongs(name, entry, protocol)}
    if reference is None or any((part < 0).any() for own in (reference, *losses.values()) for part in own):
        return {}
    return {name: task_ratios(own, reference) for name, own in losses.items()}


def belongs(name: str, entry: Entry, protocol: str) -> bool:
    """Whether an entry is compared in a protocol: what has no settings in both, and a baseline in its own."""
    free = entry.kind == "learned" or name in ("untrained", "adam_default")
    return free or name.endswith(UNTUNED) == (protocol == "untuned")


def over_tasks(ratios: Mapping[str, Mapping[str, Ratios]]) -> list[dict[str, Any]]:
    """One row per optimizer: geometric means and medians over the tasks, the worst task, on how many it is below 1.

    A median far from the mean tells of a few tasks that decide the mean.

    Args:
      ratios: by task and optimizer; tasks without any are left out.
    """
    tasks = {task: found for task, found in ratios.items() if found}
    rows = []
    for name in next(iter(tasks.values()), {}):
        row: dict[str, Any] = {"optimizer": name, "num_tasks": len(tasks)}
        row["both"] = geometric_mean(found[name].both for found in tasks.values())
        for part in Ratios._fields:
            values = {task: getattr(found[name], part) for task, found in tasks.items()}
            worst = max(values, key=lambda task: values[task])
            row |= {part: geometric_mean(values.values()), f"{part}_below": sum(x < 1 for x in values.values())}
            row |= {f"{part}_worst": values[worst], f"{part}_worst_task": worst}
            row[f"{part}_median"] = float(np.exp(np.median(np.log(list(values.values())))))
        rows.append(row)
    return rows


def sentence(rows: list[dict[str, Any]], protocol: str) -> str:
    """The ratios of the learned optimizer in words; "" where there are none."""
    row = next((row for row in rows if row["optimizer"] == "learned"), None)
    if row is None:
        return ""
    who = {
        "tuned": ("Adam with a cosine schedule, tuned on each task", "the best tuned Adam"),
        "untuned": ("Adam with a cosine schedule at one rate for all tasks", "the same"),
    }[protocol]
    parts = [
        f"{what} is {row[part]:.2f} times that of {other} (below 1 on {row[f'{part}_below']} of {row['num_tasks']}"
        + (
            f"; median {row[f'{part}_median']:.2f}; worst: {row[f'{part}_worst']:.2f}, {row[f'{part}_worst_task']}"
            if row["num_tasks"] > 1
            else ""
        )
        + ")"
        for part, what, other in zip(Ratios._fields, ("final training loss", "validation loss"), who, strict=True)
    ]
    return f"Its {parts[0]}, and its {parts[1]}."


def _own_losses(entry: Entry) -> Losses:
    """Each at the trial that was tuned for it."""
    return end_losses(entry.chosen["final_loss"], entry.chosen["valid_loss"])


def _tuning_valid_loss(entry: Entry) -> float:
    """Mean validation loss of the best trial on the tuning seeds."""
    return float(MEASURES["valid_loss"](entry.tuning).mean(-1).min())
