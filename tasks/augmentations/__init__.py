"""The augmentations: what a learned optimizer should not depend on, varied. The table of their names.

Reparametrisation, loss scales, small batches and corrupted gradients are those of VeLO (Luke Metz and others, "VeLO:
Training versatile learned optimizers by scaling up", 2022, arXiv:2211.09760).
"""

from .augmented import Augmentation
from .examples import LabelNoise, PermuteLabels, ReduceBatch
from .gradients import DelayGradient, NoisyGradient
from .units import Reparametrize, ScaleLoss

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    known.name: known
    for known in (Reparametrize, ScaleLoss, ReduceBatch, LabelNoise, PermuteLabels, NoisyGradient, DelayGradient)
}
