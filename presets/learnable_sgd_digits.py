"""The `learnable_sgd` optimizer on 8x8 images: the run of the shipped `learnable_sgd_digits`.

    python meta_train.py --preset=learnable_sgd_digits --workdir=runs/learnable_sgd
    python meta_eval.py --checkpoint=runs/learnable_sgd --horizon=500 --out=runs/learnable_sgd/eval

Hardware and time: 2 CPU cores; 0.3 processor minutes of meta-training, which take at most as long by the clock when
nothing else runs, and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.098 | 1.2 | 0.071 | 0.067 |

It learns the learning rate 0.21 and the momentum 0.85.
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="learnable_sgd",
    tasks="image_mlp/digits",
    horizon="100:1000",
    sigma=0.1,
    outer_steps=150,
    outer_learning_rate=0.1,
)
