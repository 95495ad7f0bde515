"""The `mlp` optimizer on 8x8 images: the run of `make demo`, and of the shipped `demo_mlp`.

    python meta_train.py --preset=mlp_digits --workdir=runs/demo
    python meta_eval.py --checkpoint=runs/demo --horizon=500 --out=runs/demo/eval

Hardware and time: 2 CPU cores, 2.2 minutes of meta-training and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.11 | 1.3 | 0.058 | 0.067 |
| mnist_5k | 0.29 | 0.97 | 0.30 | 0.42 |

The meta-loss is that of a fresh batch of the meta split, so the rule learns to stop fitting the training set where this
no longer helps. On the digits its final training loss stays above that of tuned Adam, and its validation loss below.
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="mlp",
    tasks="image_mlp/digits,image_mlp/mnist_5k",
    horizon="100:1000",  # around the trainings that it is meant for; at most 20 windows keep the variance low
    outer_steps=600,
)
