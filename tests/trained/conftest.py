"""What several tests of exports start from."""

import pytest

from lopt.trained.export import save_export
from tests.trained.small_export import CARD, MLP, theta_of


@pytest.fixture
def export(tmp_path):
    return save_export(tmp_path / "run" / "export", MLP, theta_of(MLP), card=CARD)
