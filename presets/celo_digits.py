"""The second phase of `celo`, its scheduler with the MLP frozen, on 8x8 images: the run of the shipped `celo_digits`.

    python meta_train.py --preset=celo_digits --workdir=runs/celo
    python meta_eval.py --checkpoint=runs/celo --horizon=500 --out=runs/celo/eval

Hardware and time: 2 CPU cores; 1.6 processor minutes of meta-training, which take at most as long by the clock when
nothing else runs, and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.15 | 1.8 | 0.060 | 0.067 |

The MLP is that of the shipped `celo_phase1_digits`, whose 3.3 processor minutes come on top;
`--init_from=runs/celo_phase1` takes your own.
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="celo",
    init_from="celo_phase1_digits",
    freeze="mlp",
    tasks="image_mlp/digits",
    horizon="100:1000",
    sigma=0.01,
    outer_steps=600,
    outer_learning_rate=0.003,
)
