"""The `nn_adam` optimizer on 8x8 images: the run of the shipped `nn_adam_digits`.

    python meta_train.py --preset=nn_adam_digits --workdir=runs/nn_adam
    python meta_eval.py --checkpoint=runs/nn_adam --horizon=500 --out=runs/nn_adam/eval

Hardware and time: 2 CPU cores; 0.5 processor minutes of meta-training, which take at most as long by the clock when
nothing else runs, and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.087 | 1.1 | 0.074 | 0.067 |

Theta starts as an Adam without bias correction. A sigma of 0.03 and an outer learning rate of 0.01 are too large here.
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="nn_adam",
    tasks="image_mlp/digits",
    horizon="100:1000",
    sigma=0.01,
    outer_steps=200,
    outer_learning_rate=0.003,
)
