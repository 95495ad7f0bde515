"""The first phase of `celo`, its MLP alone, on 8x8 images: the run of the shipped `celo_phase1_digits`.

    python meta_train.py --preset=celo_phase1_digits --workdir=runs/celo_phase1
    python meta_eval.py --checkpoint=runs/celo_phase1 --horizon=500 --out=runs/celo_phase1/eval

Hardware and time: 2 CPU cores; 3.3 processor minutes of meta-training, which take at most as long by the clock when
nothing else runs, and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.15 | 1.9 | 0.059 | 0.067 |

The second phase is `celo_digits`.
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="celo:scheduled=False",
    freeze="scheduler",
    tasks="image_mlp/digits",
    horizon="100:1000",
    sigma=0.03,
    outer_steps=1200,
    outer_learning_rate=0.03,
)
