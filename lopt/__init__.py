"""Learned optimizers for JAX: meta-trained update rules, used as optax transformations.

tx = lopt.load("demo_mlp")
state = tx.init(params)
updates, state = tx.update(grads, state, params, value=loss)
params = optax.apply_updates(params, updates)

Meta-training and evaluation in Python: `lopt.meta_train`, `lopt.evaluate`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lopt.evaluation.evaluate import evaluate
    from lopt.evaluation.report import Report
    from lopt.meta_training.run import Run, meta_train
    from lopt.meta_training.tunables import Tunable
    from lopt.meta_training.tuning import Tuned, tune
    from lopt.names import InputError
    from lopt.own.task import task
    from lopt.trained.guard import GuardState, guard
    from lopt.trained.pretrained import Pretrained, load, load_pretrained, scale_by_learned
    from lopt.trained.shipped import Shipped, shipped
    from lopt.trained.states import carry_over
    from lopt.trained.transform import LearnedState, as_optax
    from lopt.version import __version__

__all__ = [
    "GuardState",
    "InputError",
    "LearnedState",
    "Pretrained",
    "Report",
    "Run",
    "Shipped",
    "Tunable",
    "Tuned",
    "__version__",
    "as_optax",
    "carry_over",
    "evaluate",
    "guard",
    "load",
    "load_pretrained",
    "meta_train",
    "scale_by_learned",
    "shipped",
    "task",
    "tune",
]

# Loaded at first use: a command has to hear Ctrl-C before JAX loads, and a training loop needs no orbax, rich and Flax.
_LATER = {
    "GuardState": "lopt.trained.guard",
    "InputError": "lopt.names",
    "LearnedState": "lopt.trained.transform",
    "Pretrained": "lopt.trained.pretrained",
    "Report": "lopt.evaluation.report",
    "Run": "lopt.meta_training.run",
    "Shipped": "lopt.trained.shipped",
    "Tunable": "lopt.meta_training.tunables",
    "Tuned": "lopt.meta_training.tuning",
    "__version__": "lopt.version",
    "as_optax": "lopt.trained.transform",
    "carry_over": "lopt.trained.states",
    "evaluate": "lopt.evaluation.evaluate",
    "guard": "lopt.trained.guard",
    "load": "lopt.trained.pretrained",
    "load_pretrained": "lopt.trained.pretrained",
    "meta_train": "lopt.meta_training.run",
    "scale_by_learned": "lopt.trained.pretrained",
    "shipped": "lopt.trained.shipped",
    "task": "lopt.own.task",
    "tune": "lopt.meta_training.tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'lopt' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LATER[name]), name)
    except ModuleNotFoundError as error:
        from lopt.extras import explained

        raise explained(f"lopt.{name}", error) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
