"""The `celo_adam` optimizer on 8x8 images: the run of the shipped `celo_adam_digits`.

    python meta_train.py --preset=celo_adam_digits --workdir=runs/celo_adam
    python meta_eval.py --checkpoint=runs/celo_adam --horizon=500 --out=runs/celo_adam/eval

Hardware and time: 2 CPU cores; 0.8 processor minutes of meta-training, which take at most as long by the clock when
nothing else runs, and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.13 | 1.7 | 0.070 | 0.067 |
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="celo_adam",
    tasks="image_mlp/digits",
    horizon="100:1000",
    sigma=0.03,
    outer_steps=300,
)
