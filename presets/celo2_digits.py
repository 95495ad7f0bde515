"""The `celo2` optimizer on 8x8 images: the run of the shipped `celo2_digits`.

    python meta_train.py --preset=celo2_digits --workdir=runs/celo2
    python meta_eval.py --checkpoint=runs/celo2 --horizon=500 --out=runs/celo2/eval

Hardware and time: 2 CPU cores; 1.0 processor minutes of meta-training, which take at most as long by the clock when
nothing else runs, and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.16 | 2.1 | 0.070 | 0.067 |

The rule fixes the size of a matrix's step, so `learning_rate` is set for the task, at 10 times the default.
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="celo2:learning_rate=0.01",
    tasks="image_mlp/digits",
    horizon="100:1000",
    sigma=0.03,
    outer_steps=200,
)
