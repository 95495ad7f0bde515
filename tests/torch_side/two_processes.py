"""Run by test_distributed.py in each of two processes: `python -m tests.torch_side.two_processes RANK FILE FOLDER`."""

import math
import sys
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.distributed as dist  # pyright: ignore[reportMissingImports]
import torch.distributed.checkpoint  # pyright: ignore[reportMissingImports]
from torch.distributed.checkpoint.state_dict import (  # pyright: ignore[reportMissingImports]
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh  # pyright: ignore[reportMissingImports]
from torch.distributed.fsdp import fully_shard  # pyright: ignore[reportMissingImports]

from lopt.torch import Learned, param_groups

dcp: Any = torch.distributed.checkpoint
NAMES = ("blend_digits", "star_digits", "celo2_digits", "celo_digits", "celo_adam_digits", "demo_mlp")
DATA = torch.arange(7)


class Model(torch.nn.Module):
    """A table, a convolution and matrices, one of which has rows that two processes cannot share equally."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(7, 6)
        self.conv = torch.nn.Conv1d(2, 3, 2)
        self.hidden = torch.nn.Linear(6, 5)
        self.out = torch.nn.Linear(5, 1)

    def forward(self, x: Any) -> Any:
        x = self.table(x)
        x = x + self.conv(x.reshape(-1, 2, 3)).flatten(1)
        return self.out(torch.tanh(self.hidden(x)))


def new_model() -> Any:
    torch.manual_seed(0)
    return Model()


def train(model: Any, optimizer: Any, num_steps: int) -> None:
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = (model(DATA) - torch.linspace(-1, 1, 7)[:, None]).square().mean()
        loss.backward()
        optimizer.step(loss=loss)


def values(model: Any) -> list[Any]:
    params = [param.detach() for param in model.parameters()]
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.clone() for p in params]


def close(found: list[Any], wanted: list[Any], first: list[Any], what: str) -> None:
    for x, y, start in zip(found, wanted, first, strict=True):
        torch.testing.assert_close(x - start, y - start, rtol=1e-4, atol=1e-6, msg=lambda text: f"{what}: {text}")


def sharded(mesh: Any) -> Any:
    model = new_model()
    for part in (model.hidden, model.table):
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def check(name: str, mesh: Any, folder: str) -> None:
    """FSDP2 moves parameters as one process does, and goes on from a distributed checkpoint."""
    plain, parts = new_model(), sharded(mesh)
    first = values(plain)
    options = {"name": name, "num_steps": 20}
    optimizer, split = Learned(param_groups(plain), **options), Learned(param_groups(parts), **options)
    train(plain, optimizer, 3)
    train(parts, split, 3)
    close(values(parts), values(plain), first, name)
    state = split.state[parts.hidden.weight]
    assert any(hasattr(x, "placements") and x.to_local().numel() < x.numel() for x in state.values())

    where = f"{folder}/{name}"
    model_state, optimizer_state = get_state_dict(parts, split)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=where)
    other = sharded(mesh)
    restored = Learned(param_groups(other), **options)
    model_state, optimizer_state = get_state_dict(other, restored)  # makes the states by a step without gradients
    loaded = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(loaded, checkpoint_id=where)
    set_state_dict(other, restored, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    train(parts, split, 2)
    train(other, restored, 2)
    for x, y in zip(values(other), values(parts), strict=True):
        assert torch.equal(x, y), name


def check_replicas(rank: int) -> None:
    """Replicas that are given their own losses stay equal."""
    model = new_model()
    optimizer = Learned(param_groups(model), "blend_digits", num_steps=20)
    for step in range(4):
        for param in model.parameters():
            param.grad = torch.full_like(param, 0.1 * step + 0.1)
        optimizer.step(loss=2.0 / (1 + step) + rank)
    gathered: list[Any] = [None, None]
    dist.all_gather_object(gathered, values(model))
    assert all(torch.equal(x, y) for x, y in zip(*gathered, strict=True))
    mean = 0.0
    for step in range(4):
        mean = math.exp(-0.1) * mean + (1 - math.exp(-0.1)) * (2.0 / (1 + step) + 0.5)
    torch.testing.assert_close(optimizer.state[model.out.weight]["shared_loss_means"][0], torch.tensor(mean))


def main() -> None:
    rank, file, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    check_replicas(rank)
    for name in NAMES:
        check(name, mesh, folder)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
