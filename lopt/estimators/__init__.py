"""Gradient estimators, one per file. A new one is a file, a row here and its expectation in an exact test."""

from lopt.estimators.bptt import BPTT
from lopt.estimators.forward import Forward
from lopt.estimators.full_es import FullES
from lopt.estimators.gpes import GPES
from lopt.estimators.guided_es import GuidedES
from lopt.estimators.inverse_variance import InverseVariance
from lopt.estimators.nres import NRES
from lopt.estimators.pes import PES
from lopt.estimators.pes_analytic import PESAnalytic
from lopt.estimators.pes_telescoping import PESTelescoping
from lopt.estimators.rtrl import RTRL
from lopt.estimators.tbptt import TBPTT
from lopt.estimators.truncated_es import TruncatedES
from lopt.estimators.uoro import UORO

ESTIMATORS = {
    "bptt": BPTT,
    "forward": Forward,
    "full_es": FullES,
    "gpes": GPES,
    "guided_es": GuidedES,
    "inverse_variance": InverseVariance,
    "nres": NRES,
    "pes": PES,
    "pes_analytic": PESAnalytic,
    "pes_telescoping": PESTelescoping,
    "rtrl": RTRL,
    "tbptt": TBPTT,
    "truncated_es": TruncatedES,
    "uoro": UORO,
}
