"""How many cores and threads are used: what the process may use, not what the machine has."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import alignrank, environment, refused
from squares import write_squares

from alignrank import cores, device
from alignrank.cores import WAITING, allowed_cores, limit_spinning, usable_cores
from alignrank.device import choose_threads, choose_workers, device_name, settle_threads
from alignrank.errors import InputError
from alignrank.weights.deployed import deploy

SOURCE = Path(cores.__file__).parent
V1 = "11:cpuset:/docker/7f\n4:cpu,cpuacct:/docker/7f\n0::/docker/7f\n"


def system(root: Path, membership: str, files: dict[str, str]) -> Path:
    """A file system with /proc/self/cgroup and, below /sys/fs/cgroup, `files`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        # Version 2: a container sees its own cgroup as the top one; else a limit may stand on any level.
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/user/job\n", {"user/job/cpu.max": "max 100000\n", "user/cpu.max": "150000 100000\n"}, 2),
        ("0::/user/job\n", {"user/job/cpu.max": "25000 50000\n", "user/cpu.max": "400000 100000\n"}, 1),
        ("0::/../job\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "a hundred"}, 64),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 64),
        ("0::/\n", {}, 64),
        ("", {}, 64),
        # Version 1: the name is the host's, the files those of the container.
        (V1, {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {f"cpu,cpuacct/docker/7f/cpu.cfs_{name}_us": "50000\n" for name in ("quota", "period")}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("4:cpuset:/a\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)  # fmt: skip
def test_the_quota_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, files: dict[str, str], expected: int
) -> None:
    root = system(tmp_path, membership, files)
    monkeypatch.setattr(cores, "Path", lambda path: root if path == "/" else Path(path))
    monkeypatch.setattr(cores, "allowed_cores", lambda: 64)
    assert usable_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_affinity_counts() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from alignrank.cores import usable_cores; print(usable_cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_a_quota_above_the_affinity_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_quotas", lambda root: iter([8.0]))
    assert usable_cores() == min(allowed_cores(), 8)


def test_nothing_else_asks_the_machine_for_its_cores() -> None:
    asking = [path for path in SOURCE.rglob("*.py") if "cpu_count" in path.read_text(encoding="utf-8")]
    assert sorted(path.name for path in asking) == ["cores.py", "device.py"]


def test_loader_processes_are_of_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: 3)
    assert [choose_workers(None, torch.device(name)) for name in ("cuda", "cpu")] == [2, 0]


def test_what_results_call_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: 3)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda of: f"GPU {of.index}")
    said = [device_name(torch.device(name)) for name in ("cpu", "cuda:1", "mps")]
    assert said == ["cpu (riscv64, 3 cores)", "GPU 1", "mps (riscv64, 3 cores)"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine with 16 cores, of which this process has the time of 2; what `torch.set_num_threads` was told."""
    told: list[int] = []
    for name in ("ALIGNRANK_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(device, "allowed_cores", lambda: 16)
    monkeypatch.setattr(device, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    return told


def test_threads_are_as_many_as_usable_cores(machine: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    settle_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)  # by the physical cores
    settle_threads()
    assert machine == [2, 2]
    assert [choose_threads(2), choose_threads(5)] == [1, 1]


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_environment_s_threads_stay(machine: list[int], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "16")
    settle_threads()
    assert machine == []
    assert choose_threads(2) is None


@pytest.mark.parametrize("now", [1, 2, 5, 12])
def test_threads_set_in_python_stay(machine: list[int], monkeypatch: pytest.MonkeyPatch, now: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: now)
    settle_threads()
    assert machine == []


def test_our_own_variable_goes_before_all(machine: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNRANK_THREADS", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settle_threads()
    assert machine == [5]
    assert choose_threads(2) == 5


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "9" * 30, "²"])
def test_a_bad_number_of_threads_is_one_sentence(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ALIGNRANK_THREADS", text)
    with pytest.raises(InputError, match=r"^ALIGNRANK_THREADS: .* is no number of threads; use one from 1 to 1024$"):
        settle_threads()


def test_the_program_says_it_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNRANK_THREADS", "many")
    data = write_squares(tmp_path / "squares", num_train=1, num_val=1)
    refused(alignrank("train", "--data", str(data), "--out", str(tmp_path / "run")), "ALIGNRANK_THREADS", "'many'")


def test_deployed_weights_ask_for_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What val, predict and `Detector` start from."""
    monkeypatch.setenv("ALIGNRANK_THREADS", "many")
    with pytest.raises(InputError, match="ALIGNRANK_THREADS"):
        deploy(Path("none.safetensors"))


def test_how_threads_wait_is_the_user_s_word_first() -> None:
    environment: dict[str, str] = {"HOME": "/"}
    limit_spinning(environment)
    assert environment == {"HOME": "/", **WAITING}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        environment = {name: "7"}
        limit_spinning(environment)
        assert environment == {name: "7"}


def test_the_program_s_threads_do_not_spin_for_long() -> None:
    """As GNU's OpenMP itself tells when PyTorch loads it."""
    code = "import sys\nfrom alignrank.cli import main\n"
    code += "sys.argv = ['alignrank', '--help']\ntry:\n    main()\nexcept SystemExit:\n    import torch"
    asked = environment() | {"OMP_DISPLAY_ENV": "verbose"}
    for name in ("OMP_WAIT_POLICY", *WAITING):
        asked.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=asked, check=True)
    found = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not found:
        pytest.skip("PyTorch does not use GNU's OpenMP here")
    assert set(found) == {"1000"}
