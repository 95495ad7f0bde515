"""The shipped `blend_cheap`, without orthogonalized updates: `blend` as it starts.

    python meta_train.py --preset=blend_cheap --workdir=runs/blend_cheap
    python meta_eval.py --checkpoint=runs/blend_cheap --tasks=pool_valid --horizon=1000 --num_seeds=3

Its rates were chosen by sweeps on `pool_cheap` and tasks like these. Meta-trainings from there have not improved it so
far (docs/training-log.md), so this one makes a single outer step at a rate of 1e-9, which leaves theta as it is: half a
minute, and 10 minutes for the evaluation, on two cores.
Geometric means of the losses at the end of 1,000 steps, 3 seeds, ratios clipped to 0.1..10:

| 7 tasks of `pool_valid` | over Adam + cosine at the best of 15 rates for each task | worst task |
|---|---|---|
| training loss | 0.83 | 1.05 |
| validation loss, over best Adam's | 0.88 | 1.07 |
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="blend:orthogonalize=False:matrix_rate=0.14:kernel_rate=0.28:weight_decay=0.002",
    tasks="pool_cheap",
    tasks_per_step=1,
    num_pairs=2,
    horizon="100:1500",
    outer_steps=1,
    outer_learning_rate=1e-9,
)
