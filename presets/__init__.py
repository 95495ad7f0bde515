"""Complete settings of `meta_train.py` by name, one per file; its docstring has command, hardware, time and score."""

from . import (
    adafac_mlp_digits,
    blend_digits,
    celo2_digits,
    celo_adam_digits,
    celo_digits,
    celo_phase1_digits,
    learnable_adam_digits,
    learnable_sgd_digits,
    lstm_digits,
    mlp_digits,
    nn_adam_digits,
    rnn_mlp_digits,
    star_digits,
    velo_digits,
)

PRESETS = {
    "adafac_mlp_digits": adafac_mlp_digits.CONFIG,
    "blend_digits": blend_digits.CONFIG,
    "celo2_digits": celo2_digits.CONFIG,
    "celo_adam_digits": celo_adam_digits.CONFIG,
    "celo_digits": celo_digits.CONFIG,
    "celo_phase1_digits": celo_phase1_digits.CONFIG,
    "learnable_adam_digits": learnable_adam_digits.CONFIG,
    "learnable_sgd_digits": learnable_sgd_digits.CONFIG,
    "lstm_digits": lstm_digits.CONFIG,
    "mlp_digits": mlp_digits.CONFIG,
    "nn_adam_digits": nn_adam_digits.CONFIG,
    "rnn_mlp_digits": rnn_mlp_digits.CONFIG,
    "star_digits": star_digits.CONFIG,
    "velo_digits": velo_digits.CONFIG,
}
