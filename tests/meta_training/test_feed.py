"""The feed: held data are loaded once, streamed blocks are a function of (seed, step), and resuming is exact."""

import dataclasses
import json
import threading

import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.feed import Feed
from lopt.meta_training.loop import Invocation, train
from lopt.names import InputError
from lopt.types import Data, TaskMixture
from tests.meta_training.times import without_times
from tests.toy_family import Quadratic

LOADED: list[tuple[int, int]] = []


BLOCK = 8  # outer steps


@dataclasses.dataclass(frozen=True)
class Streamed(Quadratic):
    """The quadratic, with an offset of its minimum that each block changes."""

    breaks_at: int = 1_000_000

    @property
    def streams(self) -> bool:
        return True

    def load(self, seed: int = 0, block: int = 0) -> Data:
        LOADED.append((seed, block))
        if block >= self.breaks_at:
            raise InputError("the file is gone")
        return {"offset": np.random.default_rng((seed, block)).normal(size=3).astype(np.float32)}

    def sample_batch(self, data, key, config, split):
        return super().sample_batch({}, key, config, split) + data["offset"]


@pytest.fixture(autouse=True)
def _forget_loads():
    LOADED.clear()


def offsets(data):
    return [np.asarray(entry["offset"]) if entry else None for entry in data]


def test_blocks_are_a_function_of_seed_and_step_in_any_order():
    def block(index):
        return np.random.default_rng((7, index)).normal(size=3).astype(np.float32)

    with Feed((Quadratic(), Streamed()), PairLayout(), seed=7, block_steps=BLOCK) as feed:
        for step in (0, BLOCK - 1, BLOCK, 5 * BLOCK, 0):
            held, streamed = offsets(feed.at(step))
            assert held is None
            np.testing.assert_array_equal(streamed, block(step // BLOCK))
        assert (feed.steps_left(0), feed.steps_left(BLOCK + 3)) == (BLOCK, BLOCK - 3)
    counts = {pair: LOADED.count(pair) for pair in LOADED}
    assert set(counts) <= {(7, index) for index in (0, 1, 2, 5, 6)}
    assert counts[(7, 1)] <= 2  # the prefetched block is the one used


def test_held_data_are_loaded_once_and_start_no_thread():
    before = threading.active_count()
    with Feed((Quadratic(),), PairLayout(), seed=0, block_steps=BLOCK) as feed:
        assert feed.at(0) is feed.at(1000)
        assert threading.active_count() == before
        assert feed.steps_left(BLOCK - 1) is None


def test_a_block_that_cannot_be_read_says_so_when_it_is_needed():
    with Feed((Streamed(breaks_at=1),), PairLayout(), seed=0, block_steps=BLOCK) as feed:
        feed.at(BLOCK - 1)
        with pytest.raises(InputError, match="the file is gone"):
            feed.at(BLOCK)


def test_a_streamed_run_resumes_bit_for_bit(tmp_path):
    """Across the border of two blocks, stopped once before it and once after."""
    config = MetaTrainConfig(
        optimizer="learnable_adam", tasks="quadratic", num_pairs=2, truncation=5, horizon="10:20",
        outer_steps=BLOCK + 6, outer_schedule="constant", data_block_steps=BLOCK,
    )  # fmt: skip
    training = config.build(TaskMixture((Streamed(),), (1.0,)), PairLayout(1))

    def run(name, **options):
        return train(training, config, Invocation(workdir=tmp_path / name, checkpoint_every=1000, **options))

    assert run("whole").finished
    assert not run("parts", stop_after=BLOCK - 3).finished
    assert not run("parts", stop_after=5).finished
    assert run("parts").finished
    whole, parts = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts"))
    assert [without_times(json.loads(line)) for line in whole] == [without_times(json.loads(line)) for line in parts]
    assert {block for _, block in LOADED} <= {0, 1, 2}
