"""The `blend` optimizer on 8x8 images: the run of the shipped `blend_digits`.

    python meta_train.py --preset=blend_digits --workdir=runs/blend
    python meta_eval.py --checkpoint=runs/blend --horizon=500 --out=runs/blend/eval

Hardware and time: 2 CPU cores; 1.2 processor minutes of meta-training, which take at most as long by the clock when
nothing else runs, and 0.3 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.09 | 1.1 | 0.078 | 0.067 |

Untrained, as Muon and Adam, its mean loss is twice as high, 0.18 and 2.2; both fit the training set at the end to less
than a tenth of tuned Adam's loss, and the untrained one is better on other digits, 0.051.
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="blend",
    tasks="image_mlp/digits",
    horizon="100:1000",
    sigma=0.03,
    outer_steps=300,
    outer_learning_rate=3e-3,
)
