"""Rows of metrics.jsonl as far as they can be compared: the seconds of two runs differ."""

from lopt.meta_training.stopwatch import KEYS


def without_times(row):
    return {key: value for key, value in row.items() if key not in KEYS}
