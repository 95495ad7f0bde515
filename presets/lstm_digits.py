"""The coordinate-wise `lstm` on 8x8 images: the run of the shipped `demo_lstm`.

    python meta_train.py --preset=lstm_digits --workdir=runs/lstm
    python meta_eval.py --checkpoint=runs/lstm --horizon=500 --out=runs/lstm/eval

Hardware and time: 2 CPU cores, 7.8 minutes of meta-training and 0.2 of evaluation.
Expected, T = 500, mean training loss over 5 evaluation seeds (seed 0; the first two columns are ratios to Adam):

| task | over Adam 1e-3 | over best Adam of 15 rates | learned rule's valid loss | best Adam's (by mean loss) |
|---|---|---|---|---|
| digits | 0.14 | 1.8 | 0.14 | 0.067 |
| mnist_5k | 0.37 | 1.2 | 0.40 | 0.42 |

One layer of 16 cells trains three times as fast as the paper's two layers of 20, and gets further in the same time.
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="lstm:hidden_sizes=(16,)",
    tasks="image_mlp/digits,image_mlp/mnist_5k",
    horizon="100:1000",
    sigma=0.02,
    outer_steps=1200,
)
