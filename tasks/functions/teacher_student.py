"""A deep and narrow student network that fits a random teacher network: every row is fresh."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lopt.names import check_known
from lopt.types import Batch, Config, Data, Params, Task

from ..checks import check_memory, check_whole, check_widths, mlp_numbers
from ..naming import family_name
from ..networks import ACTIVATIONS, MLP, apply, init_params
from ..synthetic import Synthetic, split_key

MEASURED = 1024  # rows from which the moments of a teacher are taken
TEACHER_GAIN = 4.0  # variance times fan-in of the teacher's kernels: units that saturate, so that it is not linear


@dataclasses.dataclass(frozen=True)
class TeacherStudent(Synthetic):
    """mean_x (student(x) - (teacher(x) - mean) / std)^2 for rows x ~ N(0, 1)^dimension.

    The teacher is a tanh network with one hidden layer, drawn once per task, its output standardised. The student has
    more layers than it is wide, and no shortcuts. A loss of 1 is that of predicting the mean.

    Attributes:
      dimension: columns of a row, d below.
      teacher_size: width of the teacher's hidden layer.
      hidden_sizes: width of each hidden layer of the student.
      activation: activation of the student's hidden layers, one of `ACTIVATIONS`.
      batch_size: rows per batch, B below.
    """

    dimension: int = 8
    teacher_size: int = 8
    hidden_sizes: tuple[int, ...] = (12,) * 6
    activation: str = "tanh"
    batch_size: int = 64

    def __post_init__(self):
        check_whole(self, dimension=1, teacher_size=1, batch_size=1)
        check_widths(self)
        check_known("activation", self.activation, ACTIVATIONS)
        student = mlp_numbers((self.dimension, *self.hidden_sizes, 1), self.batch_size)
        teacher = mlp_numbers((self.dimension, self.teacher_size, 1), MEASURED)
        check_memory(self, **student, **{"the teacher": sum(teacher.values())})

    @property
    def name(self) -> str:
        """`teacher_student`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, "teacher_student")

    def sample(self, key: jax.Array) -> Config:
        """`{"teacher": params, "mean": [], "std": []}`, float32: the teacher, and the moments of its output."""
        teacher_key, rows_key = jax.random.split(key)
        teacher = init_params(self._teacher(), teacher_key, (1, self.dimension), gain=TEACHER_GAIN)
        outputs = apply(self._teacher(), teacher, jax.random.normal(rows_key, (MEASURED, self.dimension)))
        return {"teacher": teacher, "mean": outputs.mean(), "std": outputs.std()}

    def task(self, config: Config) -> Task:
        """The task's functions; a batch is `{"x": float32 [B, d], "y": float32 [B]}`, of any B."""
        del config
        return Task(self._init, self._loss, lambda loss: loss, self._metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"x": float32 [B, d], "y": float32 [B]}`."""
        del data
        x = jax.random.normal(split_key(key, split), (self.batch_size, self.dimension))
        y = apply(self._teacher(), config["teacher"], x)[:, 0]
        return {"x": x, "y": (y - config["mean"]) / config["std"]}

    def _teacher(self) -> MLP:
        return MLP((self.teacher_size,), 1, "tanh")

    def _student(self) -> MLP:
        return MLP(self.hidden_sizes, 1, self.activation)

    def _init(self, key: jax.Array) -> Params:
        return init_params(self._student(), key, (1, self.dimension), gain=ACTIVATIONS[self.activation][1])

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean squared error."""
        del key
        return jnp.mean(jnp.square(apply(self._student(), params, batch["x"])[:, 0] - batch["y"]))

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """There are none: `{}`."""
        del params, key, batch
        return {}
