"""How far a training is, as inputs of a network; the same numbers as in `lopt/optimizers/parts/progress.py`."""

import torch

from lopt.torch.types import State

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)  # inner steps
FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)  # of the training
NUM_AVERAGES = 10  # running means of the loss
NUM_PROGRESS_FEATURES = len(FRACTIONS) + NUM_AVERAGES - 1
MAX_LOSS = 1e30  # keeps sums and doubles of losses finite


def time_features(step: torch.Tensor) -> torch.Tensor:
    """tanh(t / s - 1) for the scales s in `TIME_SCALES`, `[11]`; t is the number of updates done."""
    return torch.tanh(step / torch.tensor(TIME_SCALES, device=step.device) - 1)


def fraction_features(step: torch.Tensor, num_steps: int) -> torch.Tensor:
    """tanh(10 (t / T - s)) for the fractions s in `FRACTIONS`, `[9]`; t updates are done of T in all."""
    return torch.tanh(10 * (step / num_steps - torch.tensor(FRACTIONS, device=step.device)))


def init_loss_averages(num_steps: int, device: torch.device) -> State:
    """Averages of no losses: running means, the smallest so far of each corrected mean, decays, number of losses.

    The times of decay by 1/e run from 10 to `num_steps` losses in equal ratios.
    """
    exponents = torch.arange(NUM_AVERAGES, dtype=torch.float32, device=device) / (NUM_AVERAGES - 1)
    times = 10 * torch.pow(num_steps / torch.tensor(10.0, device=device), exponents)
    minima = torch.full((NUM_AVERAGES,), MAX_LOSS, device=device)
    return {
        "loss_means": torch.zeros_like(minima),
        "loss_minima": minima,
        "loss_decays": torch.exp(-1 / times),
        "loss_count": torch.zeros((), device=device),
    }


def update_loss_averages_(shared: State, value: torch.Tensor) -> None:
    """Takes in one loss, limited to twice the largest mean so far.

    A loss that is not finite counts as that limit; before the first finite loss it is ignored.
    """
    means, minima, decays, count = (shared[f"loss_{name}"] for name in ("means", "minima", "decays", "count"))
    weight = 1 - torch.pow(decays, count + 1)
    first, finite = count == 0, torch.isfinite(value)
    loss = torch.where(finite, value, MAX_LOSS).clamp(-MAX_LOSS, MAX_LOSS)
    loss = torch.where(first, loss, torch.minimum(2 * (means / weight).max().abs(), loss))
    new_means = decays * means + (1 - decays) * loss
    new_minima = torch.minimum(minima, new_means / weight)
    ignored = first & ~finite
    for old, new in ((means, new_means), (minima, new_minima), (count, count + 1)):
        old.copy_(torch.where(ignored, old, new))


def loss_features(shared: State) -> torch.Tensor:
    """Where each mean stands between its minimum (-1) and the next longer mean (0), within [-1, 1]; `[9]`.

    The features are zero for the first two losses, when all means are nearly equal.
    """
    means, minima, decays, count = (shared[f"loss_{name}"] for name in ("means", "minima", "decays", "count"))
    means = means / (1 - torch.pow(decays, count.clamp(min=1)))
    span = (means[1:] - minima[:-1]).clamp(min=1e-8)
    features = ((means[:-1] - minima[:-1]) / span - 1).clamp(-1, 1)
    return torch.where(count <= 2, torch.zeros_like(features), features)


def loss_drop(shared: State) -> torch.Tensor:
    """log of the shortest mean over the longest: 0 at the start, and where a loss is not above 0; a scalar."""
    means, decays, count = (shared[f"loss_{name}"] for name in ("means", "decays", "count"))
    means = means / (1 - torch.pow(decays, count.clamp(min=1)))
    usable = torch.minimum(means[0], means[-1]) > 0
    return torch.where(usable, torch.log(means[0] / means[-1]), torch.zeros_like(means[0]))


def progress_features(shared: State, num_steps: int) -> torch.Tensor:
    """`fraction_features`, then `loss_features`; `[18]`."""
    return torch.cat([fraction_features(shared["step"], num_steps), loss_features(shared)])
