"""The shipped `blend_cheap`, without orthogonalized updates: `blend` as it starts.

    python meta_train.py --preset=blend_cheap --workdir=runs/blend_cheap
    python meta_eval.py --checkpoint=runs/blend_cheap --tasks=pool_valid --horizon=1000 --num_seeds=3

The same run as `blend`, with rates that were chosen likewise; it takes 1 to 4 minutes, most of which compile, and its
evaluation 10, on two cores.

Geometric means of the losses at the end of 1,000 steps, 3 seeds, ratios clipped to 0.1..10:

| 7 tasks of `pool_valid` | over Adam + cosine at the best of 15 rates for each task | worst task |
|---|---|---|
| training loss | 0.83 | 1.08 |
| validation loss, over best Adam's | 0.91 | 1.10 |
"""

import dataclasses

from . import blend

CONFIG = dataclasses.replace(
    blend.CONFIG, optimizer="blend:orthogonalize=False:matrix_rate=0.14:kernel_rate=0.28:weight_decay=0.004"
)
