"""The `velo` optimizer on 8x8 images: the run of the shipped `velo_digits`.

    python meta_train.py --preset=velo_digits --workdir=runs/velo
    python meta_eval.py --checkpoint=runs/velo --horizon=500 --out=runs/velo/eval

Hardware and time: 2 CPU cores; 8.6 processor minutes of meta-training, which take at most as long by the clock when
nothing else runs, and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.20 | 2.4 | 0.10 | 0.067 |

The sizes are those of VeLO-S. Its weight_scale of 1 makes a fresh theta that hardly moves the parameters, and trains
far slower.
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="velo:lstm_size=64:num_mlps=32:weight_scale=30.0",
    tasks="image_mlp/digits",
    horizon="100:1000",
    sigma=0.01,
    outer_steps=1500,
    outer_learning_rate=0.003,
)
