"""The `adafac_mlp` optimizer on 8x8 images: the run of the shipped `adafac_mlp_digits`.

    python meta_train.py --preset=adafac_mlp_digits --workdir=runs/adafac_mlp
    python meta_eval.py --checkpoint=runs/adafac_mlp --horizon=500 --out=runs/adafac_mlp/eval

Hardware and time: 2 CPU cores; 1.4 processor minutes of meta-training, which take at most as long by the clock when
nothing else runs, and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.12 | 1.5 | 0.063 | 0.067 |
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="adafac_mlp",
    tasks="image_mlp/digits",
    horizon="100:1000",
    sigma=0.03,
    outer_steps=400,
    outer_learning_rate=0.03,
)
