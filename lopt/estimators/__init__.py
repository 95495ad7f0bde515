"""Gradient estimators, one a file. A new one is a file, a row here and a row of the contract test."""

from lopt.estimators.full_es import FullES
from lopt.estimators.pes import PES
from lopt.estimators.truncated_es import TruncatedES

ESTIMATORS = {
    "full_es": FullES,
    "pes": PES,
    "truncated_es": TruncatedES,
}
