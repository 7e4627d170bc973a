"""How many cores this process may use, and how its threads wait for each other; imports no PyTorch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath

# How long OpenMP's threads spin before they sleep where the user has not said: some 10 us, the time that waking one
# takes. GNU's own 300,000 rounds are a time slice: with a busy neighbour each wait for a thread that has lost its core
# burns one. On two idle cores a step takes as long as before (docs/training.md).
WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
# Any of them is the user's word on it.
_WAITING_OF_USER = ("OMP_WAIT_POLICY", *WAITING)


def usable_cores() -> int:
    """Cores that this process may run on (its affinity) and has the time of (its cgroups' quota), at least 1."""
    quotas = [math.ceil(quota) for quota in _quotas(Path("/"))]
    return max(1, min([allowed_cores(), *quotas]))


def allowed_cores() -> int:
    """By the affinity, and what Python was told (PYTHON_CPU_COUNT); the machine's where the system has none."""
    of_python = getattr(os, "process_cpu_count", None)  # Python 3.13
    if of_python is not None:
        return of_python() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Set WAITING, unless the user has set any of it. It takes effect before PyTorch is imported, and only then."""
    if not any(name in environment for name in _WAITING_OF_USER):
        environment.update(WAITING)


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time by the quota of each cgroup that this process is in; root: of the file system."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            for folder in _and_above(root / "sys/fs/cgroup", name):
                limit, _, period = _read(folder / "cpu.max").strip().partition(" ")
                yield from _share(limit, period)
        elif "cpu" in controllers.split(","):
            for mounted in ("cpu", controllers):
                for folder in _and_above(root / "sys/fs/cgroup" / mounted, name):
                    yield from _share(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _and_above(top: Path, name: str) -> Iterator[Path]:
    """The folders of a cgroup and of those it lies in. In a container its own stands at the top, whatever its name."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    yield from (top.joinpath(*parts[:length]) for length in range(len(parts) + 1))


def _share(limit: str, period: str) -> Iterator[float]:
    """`max` and -1 are no limit."""
    try:
        quota, of = int(limit), int(period)
    except ValueError:
        return
    if quota > 0 and of > 0:
        yield quota / of


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
