"""The shipped `blend_anytime`, which needs neither the length of a training nor its loss: `blend` as it starts.

    python meta_train.py --preset=blend_anytime --workdir=runs/blend_anytime
    python meta_eval.py --checkpoint=runs/blend_anytime --tasks=pool_valid --horizon=1000 --num_seeds=3

The same run as `blend`, with rates that were chosen likewise; it takes 1 to 4 minutes, most of which compile, and its
evaluation 10, on two cores.

Geometric means of the losses at the end of 1,000 steps, 3 seeds, ratios clipped to 0.1..10:

| 7 tasks of `pool_valid` | over Adam + cosine at the best of 15 rates for each task | worst task |
|---|---|---|
| training loss | 0.75 | 1.02 |
| validation loss, over best Adam's | 0.85 | 1.03 |
"""

import dataclasses

from . import blend

CONFIG = dataclasses.replace(
    blend.CONFIG, optimizer="blend:anytime=True:matrix_rate=0.0175:kernel_rate=0.07:weight_decay=0.05:decay_gain=0.0"
)
