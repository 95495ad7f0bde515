"""Problems on sequences without data: copying, addition, parity and modular arithmetic."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.names import check_known
from lopt.types import Batch, Config, Data, Params, Task

from ..checks import MOST_LAYERS, check_memory, check_whole
from ..naming import family_name
from ..networks import apply, cross_entropy
from ..synthetic import Synthetic, split_key
from .networks import (
    CELLS,
    RecurrentNetwork,
    Transformer,
    check_heads,
    init_sequence_params,
    recurrent_numbers,
    transformer_numbers,
)

NO_ANSWER = -1


class Problem(NamedTuple):
    """A row of the table of problems.

    Attributes:
      draw: `(int32 [B, n, 2]) -> tokens, answers`, both int32 [B, L]: makes a batch of random numbers below 2^23. An
        answer is `NO_ANSWER` where none is asked for.
      num_symbols: tokens are below it.
      num_answers: answers are below it.
    """

    draw: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    num_symbols: int
    num_answers: int


def copy(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """n random symbols of 8, the sign `=`, the same n symbols: L = 2 n. The answers are the copied symbols."""
    symbols = numbers[:, :, 0] % 8
    sign = jnp.full_like(symbols[:, :1], 8)
    unasked = jnp.full_like(symbols, NO_ANSWER)
    tokens = jnp.concatenate([symbols, sign, symbols[:, :-1]], axis=1)
    return tokens, jnp.concatenate([unasked, symbols], axis=1)


def addition(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two numbers of n decimal digits, `+` between and `=` behind them, their sum of n + 1 digits: L = 3 n + 2.

    The answers are the digits of the sum. The least significant digit comes first, so that carries go in the
    direction of reading (Lee et al. 2023, arXiv:2307.03381).
    """
    first, second = numbers[:, :, 0] % 10, numbers[:, :, 1] % 10

    def add(carry: jax.Array, digits: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total = digits[0] + digits[1] + carry
        return total // 10, total % 10

    last, total = jax.lax.scan(add, jnp.zeros_like(first[:, 0]), (first.T, second.T))
    total = jnp.concatenate([total.T, last[:, None]], axis=1)
    plus, equals = jnp.full_like(first[:, :1], 10), jnp.full_like(first[:, :1], 11)
    tokens = jnp.concatenate([first, plus, second, equals, total[:, :-1]], axis=1)
    unasked = jnp.full_like(tokens[:, total.shape[1] :], NO_ANSWER)
    return tokens, jnp.concatenate([unasked, total], axis=1)


def parity(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """n random bits: L = n. The answer after each bit is the parity of those read so far."""
    bits = numbers[:, :, 0] % 2
    return bits, jnp.cumsum(bits, axis=1) % 2


def modular(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """n numbers below 5 with +, - or * between them: L = 2 n - 1. The answer after each number is the value so far.

    The value is modulo 5, taken from left to right. After Deletang et al. 2022, arXiv:2207.02098, A.1.
    """
    values, signs = numbers[:, :, 0] % 5, numbers[:, :, 1] % 3

    def apply(value: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        number, sign = inputs
        value = jnp.where(sign == 0, value + number, jnp.where(sign == 1, value - number, value * number)) % 5
        return value, value

    later = jax.lax.scan(apply, values[:, 0], (values[:, 1:].T, signs[:, 1:].T))[1].T
    answers = jnp.concatenate([values[:, :1], later], axis=1)
    # Number and answer, then the next sign without one; the sign in front of the first number is dropped.
    tokens = jnp.stack([signs + 5, values], axis=2).reshape(len(values), -1)[:, 1:]
    asked = jnp.stack([jnp.full_like(answers, NO_ANSWER), answers], axis=2).reshape(len(values), -1)[:, 1:]
    return tokens, asked


PROBLEMS = {
    "addition": Problem(addition, 12, 10),
    "copy": Problem(copy, 9, 8),
    "modular": Problem(modular, 8, 5),
    "parity": Problem(parity, 2, 2),
}


@dataclasses.dataclass(frozen=True)
class Sequence(Synthetic):
    """Trains a network to solve a problem on random sequences; a loss of 1 is that of guessing among the answers.

    Attributes:
      problem: one of `PROBLEMS`.
      model: "lstm", "gru" or "transformer", see `tasks.sequences.networks`.
      length: number n of symbols, digits, bits or numbers in a problem; the problem makes L tokens of them.
      width: size of the embedding, and number of units of the recurrent layer.
      depth: blocks of the transformer; LSTM and GRU have one layer, whatever the depth.
      batch_size: sequences per batch, B below.
    """

    problem: str = "copy"
    model: str = "lstm"
    length: int = 8
    width: int = 32
    depth: int = 2
    batch_size: int = 64

    def __post_init__(self):
        check_known("problem", self.problem, PROBLEMS)
        check_known("model", self.model, (*CELLS, "transformer"))
        check_whole(self, length=2, width=1, batch_size=1)
        check_whole(self, depth=1, most=MOST_LAYERS)
        if self.model == "transformer":
            check_heads(self.width)
            check_memory(self, **transformer_numbers(self.width, self.depth, self.batch_size, self.length))
        else:
            check_memory(self, **recurrent_numbers(self.width, self.batch_size * self.length))

    @property
    def name(self) -> str:
        """`sequence`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, "sequence")

    def sample(self, key: jax.Array) -> Config:
        """There is one task: `{}`."""
        del key
        return {}

    def task(self, config: Config) -> Task:
        """The task's functions. A batch is as `sample_batch` has it, of any B."""
        del config
        return Task(self._init, self._loss, self._normalize, self._metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"tokens": int32 [B, L], "answers": int32 [B, L], NO_ANSWER where none is asked for}`."""
        del data, config
        shape = (self.batch_size, self.length, 2)
        # 23 bits, whose remainders are uniform to 1 part in a million; not `randint`, which is slow.
        numbers = (jax.random.bits(split_key(key, split), shape) >> 9).astype(jnp.int32)
        tokens, answers = PROBLEMS[self.problem].draw(numbers)
        return {"tokens": tokens, "answers": answers}

    def _network(self) -> nn.Module:
        problem = PROBLEMS[self.problem]
        sizes = (problem.num_symbols, problem.num_answers)
        if self.model == "transformer":
            return Transformer(*sizes, length=self._num_tokens(), width=self.width, depth=self.depth)
        return RecurrentNetwork(*sizes, cell=self.model, width=self.width)

    def _num_tokens(self) -> int:
        numbers = jax.ShapeDtypeStruct((1, self.length, 2), jnp.int32)
        return jax.eval_shape(PROBLEMS[self.problem].draw, numbers)[0].shape[1]

    def _init(self, key: jax.Array) -> Params:
        return init_sequence_params(self._network(), key, self._num_tokens())

    def _logits(self, params: Params, batch: Batch) -> jax.Array:
        """[B, L, number of answers]."""
        return apply(self._network(), params, batch["tokens"])

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean cross-entropy of the answers, in nats."""
        del key
        losses = cross_entropy(self._logits(params, batch), batch["answers"])  # 0 where no answer is asked for
        return jnp.sum(losses) / jnp.sum(batch["answers"] != NO_ANSWER)

    def _normalize(self, loss: jax.Array) -> jax.Array:
        """In units of the loss of guessing uniformly among the answers."""
        return loss / math.log(PROBLEMS[self.problem].num_answers)

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """`accuracy`: fraction of the answers that have the largest logit."""
        del key
        right = jnp.argmax(self._logits(params, batch), axis=-1) == batch["answers"]
        return {"accuracy": jnp.sum(right) / jnp.sum(batch["answers"] != NO_ANSWER)}
