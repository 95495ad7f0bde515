"""An evaluation from formulas, in the form in which `lopt.evaluation.page` reads it."""

import math
from collections.abc import Callable
from typing import Any

HORIZON = 2000
NAMES = {  # label, kind, the loss that it approaches, steps to get there, milliseconds and FLOPs of a step / Adam's
    "learned": ("Learned (lopt)", "learned", 0.01, 90, 1.9, 1.4),
    "untrained": ("Same rule, untrained", "untuned", math.inf, 1, 1.9, 1.4),
    "adam_default": ("Adam at 0.001", "untuned", 0.2, 500, 1.0, 1.0),
    "adam": ("Adam", "constant", 0.02, 150, 1.0, 1.0),
    "adam_cosine": ("Adam, cosine", "scheduled", 0.012, 220, 1.02, 1.0),
    "muon": ("Muon", "constant", 0.03, 110, 1.4, 2.5),
}
# Ratios after 1, 2, ... trials; Muon has two.
TRIALS = {"adam": [2 * 0.9**k for k in range(15)], "adam_cosine": [1.5 * 0.9**k for k in range(15)], "muon": [3.0, 2.0]}
TASKS = {"image_mlp/digits": 1.0, "text_rnn/<b>&</script>": 3.0, "quadratic:dimension=100": 30.0}


def loss(name: str, floor: float, step: int) -> float | None:
    """The training loss as a formula: from 2.3 down to the optimizer's level, or up until it diverges."""
    _, _, level, steps, *_ = NAMES[name]
    if not math.isfinite(level):
        return 2.3 * math.exp(step / 300) if step < 900 else None
    level *= floor
    return level + (2.3 - level) * math.exp(-step / steps) * (1 + 0.02 * math.sin(step))


def curve(name: str, floor: float) -> dict[str, Any]:
    """The training loss, and under `valid` twice of it every 5 % of the training."""
    valid = spread([HORIZON * i // 20 for i in range(1, 21)], lambda step: 2 * (loss(name, floor, step) or math.nan))
    return {**spread(list(range(0, HORIZON, 10)), lambda step: loss(name, floor, step)), "valid": valid}


def spread(steps: list[int], height: Callable[[int], float | None]) -> dict[str, list]:
    values = [height(step) for step in steps]
    median = [None if y is None or math.isnan(y) else y for y in values]
    band = [[None if y is None else y * factor for y in median] for factor in (0.8, 1.3)]
    return {"step": steps, "median": median, "low": band[0], "high": band[1]}


def row(name: str, floor: float) -> dict[str, Any]:
    _, kind, level, _, time, flops = NAMES[name]
    final = level * floor
    plain = "inf" if math.isinf(final) else final
    scheduled, tuned = kind == "scheduled", kind in ("constant", "scheduled")
    return {
        "optimizer": name,
        "rate_by_mean_loss": 0.037 if kind == "constant" else None,
        "rate_by_final_loss": 0.016 if tuned else 0.001 if name == "adam_default" else None,
        "mean_loss": None if scheduled else "inf" if math.isinf(final) else 4 * final,
        "final_loss": plain,
        "valid_loss": "inf" if math.isinf(final) else 1.5 * final,
        "lowest_valid_loss": "inf" if math.isinf(final) else 1.2 * final,
        "lowest_valid_step": None if math.isinf(final) else 1400,
        "train_ratio": 10.0 if math.isinf(final) else level / 0.012,
        "valid_ratio": 10.0 if math.isinf(final) else 1.5 * level / 0.012,
        "valid_accuracy": None if floor > 10 else 0.1 if math.isinf(final) else 1 - final,
        "speed_up": None if scheduled else 0.0 if math.isinf(final) else 4.0 if name == "learned" else 0.5,
        "speed_up_envelope": None if scheduled else 0.0 if math.isinf(final) else 1.7 if name == "learned" else 0.4,
        "speed_up_is_lower_bound": name == "learned",
        "diverged": 5 if math.isinf(final) else 0,
        "num_runs": 5,
        "flops_per_step": 2.5e6 * flops * floor,
        "step_time": time,
        "step_time_low": time - floor / 100,
        "step_time_high": time + floor / 50,
        "milliseconds_per_step": 0.25 * (time + floor / 10),
        "score": 0.0 if math.isinf(final) else 0.02 / level,
    }


def deciding(name: str) -> dict[str, Any]:
    ratio = min(NAMES[name][2] / 0.012, 10.0)
    row: dict[str, Any] = {"optimizer": name, "num_tasks": len(TASKS), "both": 1.1 * ratio}
    for part, times in (("train", 1.0), ("valid", 1.5)):
        row |= {part: times * ratio, f"{part}_worst": 2 * times * ratio, f"{part}_worst_task": "text_rnn/<b>&</script>"}
        row[f"{part}_median"] = 0.9 * times * ratio
        row[f"{part}_below"] = 2 if times * ratio < 1 else 0
    return row


def aggregate(name: str) -> dict[str, Any]:
    level = NAMES[name][2]
    score = 0.0 if math.isinf(level) else 0.02 / level
    ours = name == "learned"
    share = None if ours else 1.0 if math.isinf(level) else 1 - 0.5 * 0.01 / level
    return {
        "optimizer": name,
        "iqm": score,
        "iqm_low": 0.9 * score,
        "iqm_high": 1.15 * score,
        "worst": 0.6 * score,
        "worst_task": "text_rnn/<b>&</script>",
        "improvement": share,
        "improvement_low": share and 0.9 * share,
        "improvement_high": share,
        "speed_up_iqm": None if NAMES[name][1] == "scheduled" else 4.0 if ours else 0.5,
        "diverged": 15 if math.isinf(level) else 0,
        "num_runs": 15,
    }


def example() -> dict[str, Any]:
    """An evaluation from formulas: one optimizer diverged, one is scheduled, one task has a hostile name."""
    tuning = {"constant": "15 learning rates from 1e-05 to 1 on 5 tuning seeds, once per measure"}
    tuning |= {"scheduled": tuning["constant"], "untuned": "not tuned", "learned": "not tuned: meta-trained"}
    thresholds = [10 ** (i / 20 - 1) for i in range(41)]
    return {
        "title": "nn_adam, evaluated on three tasks",
        "headline": "Its final loss is half of tuned Adam's (score 2.00 [1.80, 2.30]) and it gets there in less than a "
        "quarter of the steps, but a step takes 1.9 times as long: text_bilinear/python_docs:length=16:batch_size=8.",
        "optimizer": "nn_adam:hidden_size=32",
        "checkpoint": "runs/nn_adam/export",
        "theta_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "command": "python meta_eval.py --optimizer=runs/nn_adam/export --tasks=image_mlp/digits --horizon=2000",
        "created": "2026-01-31T12:00:00",
        "versions": {"lopt": "0.9", "jax": "0.10.2", "optax": "0.2.8"},
        "hardware": "2 CPU cores",
        "setting": {"horizon": HORIZON, "num_seeds": 5, "seed": 0, "split": "valid"},
        "optimizers": {name: {"label": x[0], "kind": x[1], "tuning": tuning[x[1]]} for name, x in NAMES.items()},
        "tasks": [
            {
                "name": task,
                "num_params": 2410,
                "warnings": ["the best rate of Muon, 1, is at the edge of the grid"] if floor == 3 else [],
                "rows": [row(name, floor) for name in NAMES],
                "curves": {name: curve(name, floor) for name in NAMES},
            }
            for task, floor in TASKS.items()
        ],
        "deciding": {"tuned": [deciding(name) for name in NAMES], "untuned": []},
        "aggregate": [aggregate(name) for name in NAMES],
        "profiles": {
            "threshold": thresholds,
            **{name: [1 / (1 + (x / max(aggregate(name)["iqm"], 1e-9)) ** 6) for x in thresholds] for name in NAMES},
        },
        "trials": {
            "train": {"learned": 1.5, "curves": TRIALS, "needed": {"adam": 3, "adam_cosine": 1, "muon": None}},
            "valid": {"learned": 0.5, "curves": TRIALS, "needed": dict.fromkeys(TRIALS)},
        },
        "targets": {
            "rows": [
                {"optimizer": name, "steps": 0.9 - 0.1 * i, "seconds": 0.5, "reached": 3 - i % 2, "num_tasks": 3}
                for i, name in enumerate(NAMES)
            ],
            "ratios": {name: {"steps": [1.0, 2.0, "inf"], "seconds": [1.0, 4.0, "inf"]} for name in NAMES},
        },
        "sweeps": [
            {
                "axis": axis,
                "task": "image_mlp/digits",
                "values": values,
                "rows": {
                    "learned": [2.0, 1.6, 1.1, 0.7, 0.3, 0.0][: len(values)],
                    "adam_cosine": [1.6, 1.5, 1.4, 1.3, None, 1.2][: len(values)],
                },
            }
            for axis, values in (("width", [8, 16, 32, 64, 128, 256]), ("batch_size", [16, 64, 256]))
        ],
        "failures": [
            "quadratic:dimension=100: the horizon of 2,000 steps is beyond the 1,000 that it was trained for",
            "text_bilinear/python_docs:length=16:batch_size=8: the untrained rule diverged on 15 of 15 runs",
        ],
    }
