"""The shipped `blend`, the one that `lopt.load()` gives: `blend` as it starts.

    python meta_train.py --preset=blend --workdir=runs/blend
    python meta_eval.py --checkpoint=runs/blend --tasks=pool_valid --horizon=1000 --num_seeds=3

Its rates were chosen by sweeps on `pool_cheap` and tasks like these. Meta-trainings from there have not improved it so
far (docs/training-log.md), so this one makes a single outer step at a rate of 1e-9, which leaves theta as it is: 1 to 4
minutes, most of which compile, and 10 for the evaluation, on two cores.

Geometric means of the losses at the end of 1,000 steps, 3 seeds, ratios clipped to 0.1..10:

| 7 tasks of `pool_valid` | over Adam + cosine at the best of 15 rates for each task | worst task |
|---|---|---|
| training loss | 0.55 | 1.01 |
| validation loss, over best Adam's | 0.55 | 1.00 |
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="blend",
    tasks="pool_cheap",
    tasks_per_step=1,
    num_pairs=2,
    horizon="100:1500",
    outer_steps=1,
    outer_learning_rate=1e-9,
)
