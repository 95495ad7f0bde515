"""The shipped `blend_anytime`, which needs neither the length of a training nor its loss: `pool_cheap` made it.

    python meta_train.py --preset=blend_anytime --workdir=runs/blend_anytime
    python meta_eval.py --checkpoint=runs/blend_anytime --tasks=pool_valid --horizon=1000 --num_seeds=3

FIGURES
"""

from lopt.meta_training.config import MetaTrainConfig

CONFIG = MetaTrainConfig(
    optimizer="blend:anytime=True:weight_decay=0.0025",
    tasks="pool_cheap",
    tasks_per_step=8,
    family_scale="normalised",
    estimator="nres",
    num_pairs=8,
    sigma=0.08,
    horizon="100:1500",
    meta_loss="mixed",
    meta_transform="log",
    meta_weight="late:2",
    outer_steps=300,
    outer_optimizer="adamw",
    outer_learning_rate=0.0015,
    outer_weight_decay=0.05,
    theta_ema=0.98,
    valid_tasks="pool_valid",
    valid_every=150,
    valid_seeds=3,
)
