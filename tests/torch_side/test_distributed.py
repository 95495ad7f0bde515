"""Two processes: sharded parameters (FSDP2, DTensor), distributed checkpoints, and replicas with their own losses."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch installs it")

from tests.test_imports import ROOT

pytestmark = pytest.mark.thorough


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch was built without torch.distributed")
def test_two_processes_train_as_one_does(tmp_path):
    command = [sys.executable, "-m", "tests.torch_side.two_processes"]
    arguments = [str(tmp_path / "meeting"), str(tmp_path)]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen([*command, str(rank), *arguments], **options) for rank in range(2)]
    try:
        output = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(output)
