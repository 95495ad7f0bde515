"""Learned optimizers, one a file. A new one is a file, a row here and a row of the contract test."""

from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.optimizers.lstm import LSTMOptimizer
from lopt.optimizers.mlp import MLPOptimizer

OPTIMIZERS = {
    "learnable_adam": LearnableAdam,
    "lstm": LSTMOptimizer,
    "mlp": MLPOptimizer,
}
