"""Learned optimizers for JAX: meta-trained update rules, used as optax transformations.

tx = lopt.load("demo_mlp")
state = tx.init(params)
updates, state = tx.update(grads, state, params, value=loss)
params = optax.apply_updates(params, updates)
"""

from lopt.meta_training.tunables import Tunable
from lopt.meta_training.tuning import Tuned, tune
from lopt.names import InputError
from lopt.trained.guard import GuardState, guard
from lopt.trained.pretrained import Pretrained, load, load_pretrained, scale_by_learned
from lopt.trained.transform import LearnedState, as_optax
from lopt.version import __version__

__all__ = [
    "GuardState",
    "InputError",
    "LearnedState",
    "Pretrained",
    "Tunable",
    "Tuned",
    "__version__",
    "as_optax",
    "guard",
    "load",
    "load_pretrained",
    "scale_by_learned",
    "tune",
]
