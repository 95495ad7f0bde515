"""Named complete settings of `meta_train.py`, one a file, whose docstring gives command, hardware, time and score."""

from presets import lstm_digits, mlp_digits

PRESETS = {
    "lstm_digits": lstm_digits.CONFIG,
    "mlp_digits": mlp_digits.CONFIG,
}
