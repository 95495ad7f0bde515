"""Run by test_processes.py in each of two processes: `python -m tests.told_between_processes HOST:PORT,2,INDEX`.

Every function of `lopt.processes` and the layout of pairs, with other values in each process. What is wrong is an
AssertionError in the process that sees it, which ends at once, so that the other does not wait for it; where both wait
for each other, they say where.
"""

import faulthandler
import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lopt import cluster, processes
from lopt.distributed import PairLayout, default_layout
from lopt.names import InputError

ROWS = np.arange(8.0).reshape(4, 2)
DEVICES = (2, 3)  # of each process
SECONDS = 150  # after which they wait for each other


class Rows:
    """The part of a task family that a layout uses."""

    def load(self) -> dict[str, np.ndarray]:
        return {"x": ROWS}


def error_of(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def values_of_the_first(mine: int) -> None:
    for size in (0, 1, 63, 64, 65, 128, 129, 70_000):
        sent = bytes(i % 251 for i in range(size))
        assert processes.bytes_of_first(sent if mine == 0 else b"of the other") == sent, size
    assert processes.of_first((1, "a") if mine == 0 else {"b": 2}) == [1, "a"]
    for array in (
        np.array([-0.0, np.nan, 1e-45], np.float32),
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.zeros((0, 2)),
    ):
        found = processes.array_of_first(array if mine == 0 else np.ones_like(array))
        assert (found.tobytes(), found.shape, found.dtype) == (array.tobytes(), array.shape, array.dtype)


def values_of_all(mine: int) -> None:
    for values in ((1.5, -3.0), (-3.0, 1.5)):
        assert processes.largest(values[mine]) == 1.5
    np.testing.assert_array_equal(processes.gather(np.array([mine, 7])), [[0, 7], [1, 7]])


def failures(mine: int) -> None:
    called = []
    assert processes.first_does(lambda: called.append(1) or {"a": 1}) == {"a": 1}
    assert called == ([1] if mine == 0 else [])
    assert processes.all_do(lambda: mine) == mine

    def fails(*those: int) -> None:
        if mine in those:
            raise OSError(f"{mine} fails")

    for call, failing, told in (
        (lambda: processes.first_does(lambda: fails(0, 1)), 0, "0 fails"),
        (lambda: processes.all_do(lambda: fails(1)), 1, "process 1 of this run cannot go on, and says why"),
        (lambda: processes.all_do(lambda: fails(0)), 0, "process 0 of this run cannot go on, and says why"),
    ):
        error = error_of(call)
        if mine == failing:
            assert (type(error), str(error)) == (OSError, f"{mine} fails")
        else:
            assert (type(error), str(error)) == (processes.ToldElsewhere, told)

    def interrupted() -> None:
        raise KeyboardInterrupt

    error = error_of(functools.partial(processes.first_does, interrupted))  # which has no text of its own
    wanted = (KeyboardInterrupt, "") if mine == 0 else (processes.ToldElsewhere, "KeyboardInterrupt")
    assert (type(error), str(error)) == wanted


def differences(mine: int) -> None:
    x = np.arange(4, dtype=np.int32)
    processes.check_same({"settings": "a", "data": {"x": x}})
    for name, values in {
        "text": ("a", "b"),
        "type": ({"x": x}, {"x": x.view(np.float32)}),
        "shape": ({"x": x}, {"x": x.reshape(2, 2)}),
        "value": ({"x": x}, {"x": x + 1}),
        "first of two": ({"x": x, "y": x}, {"x": x + 1, "y": x}),
    }.items():
        error = error_of(functools.partial(processes.check_same, {"settings": "a", name: values[mine]}))
        assert isinstance(error, InputError)
        assert f"process 1 of this run has other {name} than process 0" in str(error)


def layouts(mine: int) -> None:
    """Pairs lie over the processes in order, as many on each, though the second one has a device more."""
    assert len(jax.local_devices()) == DEVICES[mine]
    assert default_layout(8) == PairLayout(4)
    assert default_layout(6) == PairLayout(2)
    for pairs, devices in ((3, None), (8, 3), (6, 2)):
        assert isinstance(error_of(functools.partial(default_layout, pairs, devices)), InputError)
    for layout in (PairLayout(2), PairLayout(4)):
        owners = [device.process_index for device in layout.mesh.devices.ravel()]
        assert owners == [0] * (layout.num_devices // 2) + [1] * (layout.num_devices // 2)
        placed = processes.put(ROWS, layout.split)
        shards = sorted(placed.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        np.testing.assert_array_equal(np.concatenate([shard.data for shard in shards]), ROWS[2 * mine : 2 * mine + 2])
        total, kept = jax.jit(lambda x, layout=layout: layout.sum_pairs(lambda pair: (pair, 2 * pair), x))(placed)
        np.testing.assert_array_equal(total.addressable_data(0), ROWS.sum(0))
        for array, wanted in ((placed, ROWS), (kept, 2 * ROWS)):
            found = processes.whole(array, layout.replicated)
            assert (found is None) == (mine == 1)
            if found is not None:
                np.testing.assert_array_equal(found, wanted)
        rows: Any = Rows()
        loaded, doubled = layout.load(rows)["x"], jax.jit(lambda x, layout=layout: layout.for_all(2 * x))(placed)
        for array, wanted in ((loaded, ROWS), (doubled, 2 * ROWS)):  # all of it on every device of the layout
            assert array.is_fully_replicated
            assert array.sharding.device_set == set(layout.mesh.devices.flat)
            np.testing.assert_array_equal(array.addressable_data(0), wanted)


def main(place: str) -> int:
    jax.config.update("jax_num_cpu_devices", DEVICES[int(place[-1])])
    cluster.connect(place, 60, "told")
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    index = jax.process_index()
    try:
        assert (processes.number(), processes.is_first()) == (2, index == 0)
        for part in (values_of_the_first, values_of_all, failures, differences, layouts):
            part(index)
    except BaseException:
        traceback.print_exc()
        return cluster.leave(1)
    cluster.part()
    print("all is told", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
