"""What a run will need, before anything of it is built: memory for its trajectories, time for its start."""

import jax

from lopt.distributed import machine_memory
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.outer import MetaTraining, OuterState
from lopt.names import InputError
from lopt.types import Data, PyTree, TaskFamily

COPIES = 2  # of a batch and of a particle's state within a step: the gradient beside it
LEAST_STEP_SECONDS = 1e-6  # of an inner step, at the very least
MAX_START_HOURS = 24.0


def num_bytes(shapes: PyTree) -> int:
    """Size of a tree's arrays, in bytes, from their shapes and types."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def check_affordable(
    training: MetaTraining, config: MetaTrainConfig, template: OuterState, data: tuple[Data, ...]
) -> None:
    """Raises InputError if a run needs more memory than there is, or a day to bring its trajectories to their start.

    The memory counted is a lower bound: this process's share of the state, and a batch of a family on every device.

    Args:
      training: what is trained.
      config: its settings.
      template: shapes of the run's state.
      data: of the families, or their shapes.
    """

    def batch(family: TaskFamily, data: Data) -> PyTree:
        def draw(data: Data, key: jax.Array) -> PyTree:
            return family.sample_batch(data, key, family.sample(key), "train")

        return jax.eval_shape(draw, data, jax.eval_shape(lambda: jax.random.key(0)))

    batches = [num_bytes(batch(*pair)) for pair in zip(training.families, data, strict=True)]
    state = num_bytes(template) // jax.process_count()
    batches_now = COPIES * training.layout.num_devices // jax.process_count() * max(batches, default=0)
    there = machine_bytes()
    if state + batches_now > there:
        raise InputError(
            f"this run needs at least {_gib(state + batches_now)} of memory, and this machine has {_gib(there)}: "
            f"{_gib(state)} for the states of {config.pairs():,} pairs per family and theta, {_gib(batches_now)} for "
            "batches. Take fewer pairs, smaller networks or smaller batches."
        )
    lengths = config.trajectory_lengths()
    steps = len(training.families) * config.pairs() * lengths.max_length / 4  # to half of the mean length met
    hours = steps * LEAST_STEP_SECONDS / training.layout.num_devices / 3600
    if hours > MAX_START_HOURS:
        raise InputError(
            f"bringing the trajectories to their starting points would take {hours:,.0f} hours or more, for "
            f"{config.pairs():,} pairs and horizons of up to {lengths.max_length:,} inner steps. Take shorter horizons "
            "or fewer pairs."
        )


def machine_bytes() -> int:
    """Memory of the devices: the machine's on a CPU, else that of one accelerator times their number."""
    if jax.default_backend() == "cpu":
        return machine_memory()
    limits = [(device.memory_stats() or {}).get("bytes_limit", 2**62) for device in jax.local_devices()]
    return sum(limits)


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
