"""Trains a small network in PyTorch with a learned optimizer: `python examples/pytorch_loop.py [EXPORT]`."""

import sys
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed
import lopt.torch

NAME = sys.argv[1] if len(sys.argv) > 1 else "blend_digits"
NUM_STEPS = 200

torch.manual_seed(0)
x = torch.randn(256, 10)
labels = (x @ torch.randn(10) > 0).float()

model = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = lopt.torch.Learned(lopt.torch.param_groups(model), NAME, num_steps=NUM_STEPS)

losses = []
for _ in range(NUM_STEPS):
    optimizer.zero_grad()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], labels)
    loss.backward()
    optimizer.step(loss=loss)
    losses.append(loss.item())
print(f"first loss {losses[0]:.4f}, last loss {losses[-1]:.4f}")
