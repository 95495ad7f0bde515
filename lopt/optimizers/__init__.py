"""Learned optimizers, one per file. A new one needs its file, a row here, and a row in the contract test."""

from lopt.optimizers.adafac_mlp import AdafacMLP
from lopt.optimizers.blend import Blend
from lopt.optimizers.celo import Celo
from lopt.optimizers.celo2 import Celo2
from lopt.optimizers.celo_adam import CeloAdam
from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.optimizers.learnable_sgd import LearnableSGD
from lopt.optimizers.lstm import LSTMOptimizer
from lopt.optimizers.mlp import MLPOptimizer
from lopt.optimizers.nn_adam import NNAdam
from lopt.optimizers.rnn_mlp import RNNMLPOptimizer
from lopt.optimizers.star import Star
from lopt.optimizers.velo import Velo

OPTIMIZERS = {
    "adafac_mlp": AdafacMLP,
    "blend": Blend,
    "celo": Celo,
    "celo2": Celo2,
    "celo_adam": CeloAdam,
    "learnable_adam": LearnableAdam,
    "learnable_sgd": LearnableSGD,
    "lstm": LSTMOptimizer,
    "mlp": MLPOptimizer,
    "nn_adam": NNAdam,
    "rnn_mlp": RNNMLPOptimizer,
    "star": Star,
    "velo": Velo,
}
