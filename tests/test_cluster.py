"""A command as one of several processes: what it is told, what it sees, and the files for Slurm and Kubernetes."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import jax
import pytest
import yaml

from lopt import cluster, processes
from lopt.cluster import Place, check_alone, read_place
from lopt.names import InputError
from tests.test_imports import ROOT

FILES = ROOT / "docs" / "cluster"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("10.0.0.1:6721,4,0", Place("10.0.0.1:6721", 4, 0)),
        ("node7:80,1000,999", Place("node7:80", 1000, 999)),
        ("h:1,1,0", Place("h:1", 1, 0)),
        ("h:65535,2,1", Place("h:65535", 2, 1)),
        ("[fd00::1]:6721,2,1", Place("[fd00::1]:6721", 2, 1)),
        ("true", None),
    ],
)
def test_a_place_is_read(text, place):
    assert read_place(text) == place


@pytest.mark.parametrize("text", ["", "2", "host,2,0", "host:x,2,0", "h:0,2,0", "h:65536,2,0", ":80,2,0", "h:80,2",
                                  "h:80,2,2", "h:80,0,0", "h:80,2,-1", "h:80,a,0", "h:80,2,0,1"])  # fmt: skip
def test_a_bad_place_is_refused_with_its_form(text):
    with pytest.raises(InputError, match=r"HOST:PORT,NUM,ID.*10\.0\.0\.1:6721,4,0"):
        read_place(text)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("environ", "seen"),
    [
        (SLURM, r"Slurm has started \(SLURM_JOB_ID=7, SLURM_NTASKS=4, SLURM_PROCID=2\).*srun \.\.\. --distributed"),
        (OMPI, r"Open MPI has started \(OMPI_COMM_WORLD_SIZE=2.*mpirun \.\.\. --distributed"),
        (SLURM | OMPI, "Open MPI"),
        ({"PMI_SIZE": "8", "PMI_RANK": "1"}, "PMI_SIZE=8"),
        (POD, "Kubernetes"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, r"jax\.distributed.*JAX_COORDINATOR_ADDRESS=a:1"),
    ],
)
def test_a_process_of_a_cluster_says_what_it_sees_and_what_to_write(environ, seen):
    with pytest.raises(InputError, match=seen + r".*--nodistributed if this process is to work alone"):
        check_alone(environ)


@pytest.mark.parametrize(
    "environ",
    [{}, SLURM | {"SLURM_NTASKS": "1"}, {"SLURM_JOB_ID": "7"}, OMPI | {"OMPI_COMM_WORLD_SIZE": "1"},
     {"PMI_SIZE": "0", "PMI_RANK": "0"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}],
)  # fmt: skip
def test_a_process_by_itself_is_left_alone(environ):
    check_alone(environ)


@pytest.fixture
def joined(monkeypatch):
    """What `jax.distributed.initialize` was given; and `os._exit`, where it was called. No process is joined."""
    given: dict[str, object] = {}

    def initialize(**settings):
        given.update(settings)
        signal.signal(signal.SIGTERM, lambda number, frame: None)  # as JAX does
        time.sleep(given.get("takes", 0.0))  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    noise = b"[Gloo] Rank 0 is connected\n"
    monkeypatch.setattr(processes, "gather", lambda row: os.write(1, noise))
    monkeypatch.setattr(processes, "connect_devices", lambda: os.write(1, noise))
    monkeypatch.setattr(os, "_exit", lambda status: given.update(exit=status))
    for name in {**SLURM, **OMPI, **POD, "PMI_SIZE": "", "JAX_COORDINATOR_ADDRESS": ""}:
        monkeypatch.delenv(name, raising=False)
    return given


def test_who_is_not_told_to_join_works_alone_or_is_asked(joined, monkeypatch):
    assert cluster.connect(None, 60, "x") is False
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="Slurm has started"):
        cluster.connect(None, 60, "x")
    assert cluster.connect("false", 60, "x") is False
    assert joined == {}


def test_joining_leaves_signals_output_and_time_as_they_were(joined, capfd):
    before = signal.getsignal(signal.SIGTERM)
    assert cluster.connect("h:80,2,1", 0.2, "x") is False  # as nobody has really come  # pyright: ignore[reportArgumentType]
    os.write(1, b"after\n")  # the output itself: `print` may have been given another one
    time.sleep(0.4)  # in which a clock that still ran would end the process
    assert signal.getsignal(signal.SIGTERM) is before
    assert capfd.readouterr() == ("after\n", "")
    assert joined.pop("initialization_timeout") > 0.2
    wanted = {"coordinator_address": "h:80", "num_processes": 2, "process_id": 1, "heartbeat_timeout_seconds": 0.2}
    assert joined == wanted
    joined.clear()
    cluster.connect("true", 60, "x")
    assert (joined["process_id"], "coordinator_address" in joined) == (None, False)


def test_who_waits_in_vain_ends_with_what_to_do(joined, capfd):
    joined["takes"] = 0.5
    cluster.connect("h:80,2,1", 0.1, "x")  # pyright: ignore[reportArgumentType]
    assert joined["exit"] == cluster.LOST
    assert capfd.readouterr().err.startswith("x: process 1 of 2 has waited 0.1 s for the others at h:80, and not all")


@pytest.mark.parametrize("first", [True, False])
def test_a_failure_ends_one_of_several_at_once(joined, first, monkeypatch):
    """The first one gives the others a second, in which they hear of it."""
    slept = []
    monkeypatch.setattr(cluster.time, "sleep", slept.append)
    assert cluster.leave(3) == 3  # alone: its command ends it
    assert (joined, slept) == ({}, [])
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(processes, "is_first", lambda: first)
    cluster.leave(3)
    assert joined == {"exit": 3}
    assert bool(slept) == first


def lopt_flags(words):
    """The flags of a command, by name, checked to be those that it has."""
    parts = [word.removeprefix("--").partition("=") for word in words if word.startswith("--")]
    given = {name: value for name, _, value in parts}
    known = (ROOT / "meta_train.py").read_text() + (ROOT / "lopt" / "meta_training" / "config.py").read_text()
    for name in given:
        assert re.search(rf'"{name}"|^    {name}: ', known, re.MULTILINE), name
    return given


def test_the_slurm_script(tmp_path):
    script = (FILES / "slurm.sh").read_text()
    assert script.startswith("#!/bin/bash\n")
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    directives = {name: value for name, _, value in (line.partition("=") for line in lines)}
    assert directives["ntasks-per-node"] == "1"
    assert "requeue" in directives
    # Run, with the programs of Slurm in the way: its words reach the command, and a lost process asks for another turn.
    for name, text in {"srun": 'echo "$@"; exit $STATUS', "scontrol": 'echo again "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for status, again in (("0", False), ("75", True), ("143", True), ("2", False)):
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": "/s", "SLURM_JOB_ID": "7"}
        done = subprocess.run(["bash", str(FILES / "slurm.sh")], env={**environ, "STATUS": status},
                              capture_output=True, text=True)  # fmt: skip
        words = shlex.split(done.stdout.splitlines()[0])
        assert done.returncode == int(status)
        assert words[words.index("python") :][:4] == ["python", "-m", "lopt", "train"]
        given = lopt_flags(words[words.index("train") :])
        assert given["distributed"] == ""
        assert int(given["num_pairs"]) % int(directives["nodes"]) == 0
        assert ("again requeue 7" in done.stdout) == again


def test_the_jobset():
    jobset = yaml.safe_load((FILES / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    assert job["backoffLimit"] == 0  # a pod that fails ends the job, and the JobSet starts all of it anew
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    (text,) = container["args"]
    given = lopt_flags(shlex.split(text))
    # The name of the pod of index 0 in the headless service: JOBSET-REPLICATED-0-0.SUBDOMAIN.
    network = jobset["spec"]["network"]
    assert network["enableDNSHostnames"]
    host = f"{jobset['metadata']['name']}-{replicated['name']}-0-0.{network['subdomain']}"
    place = read_place(given["distributed"].replace("$JOB_COMPLETION_INDEX", "3"))
    assert place == Place(f"{host}:{container['ports'][0]['containerPort']}", job["parallelism"], 3)
    assert int(given["num_pairs"]) % job["parallelism"] == 0
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
    assert Path(given["workdir"]).is_relative_to(mounted["runs"])
