"""What every test gets: no network, one torch thread, a fixed seed; and `shared`, the folder of oracle fixtures.

What needs a package of an extra that is not installed is skipped, saying so (`missing_extra.py`).

Sockets are blocked in this process for the whole session, collection included: connecting (or sending, or looking
up a name) over IPv4 or IPv6 raises `SocketBlocked`, and a test during which that happened fails even if the code
under test swallowed the error. AF_UNIX is free (workers need it). A test marked `allow_loopback`, or that takes the
fixture of that name, may reach this machine itself. Child processes are not patched; they inherit HF_HUB_OFFLINE.
"""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from missing_extra import why_skipped

REPOSITORY = Path(__file__).resolve().parents[1]
LOOPBACK = ("127.0.0.1", "::1", "localhost")
INTERNET = (socket.AF_INET, socket.AF_INET6)

os.environ["HF_HUB_OFFLINE"] = "1"


class SocketBlocked(OSError):
    """A test tried to reach the network."""


class Guard:
    """Which addresses may be reached now, and what was refused since the last reset."""

    def __init__(self) -> None:
        self.loopback = False
        self.refused: list[str] = []

    def check(self, host: Any) -> None:
        """Raise unless `host` may be reached."""
        name = host.decode() if isinstance(host, bytes) else str(host)
        if self.loopback and name in LOOPBACK:
            return
        self.refused.append(name)
        raise SocketBlocked(f"a test tried to reach {name!r}; tests have no network (see tests/conftest.py)")


GUARD = Guard()


def _guarded(method: Callable[..., Any], address: int) -> Callable[..., Any]:
    """`method` of a socket, its target (positional argument number `address`) checked first."""

    def call(self: socket.socket, *arguments: Any) -> Any:
        if self.family in INTERNET:
            GUARD.check(arguments[address][0])
        return method(self, *arguments)

    return call


def _guarded_lookup(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(host: Any, *arguments: Any, **options: Any) -> Any:
        # None and "" are what a server binds to.
        if host not in (None, "", b"", "0.0.0.0", "::"):
            GUARD.check(host)
        return function(host, *arguments, **options)

    return call


def pytest_configure(config: pytest.Config) -> None:
    """Block sockets before any test module is imported; take Ctrl-C, which a shell's background jobs ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else processes that tests start ignore it, too
    config.addinivalue_line("markers", "allow_loopback: may connect to this machine itself (127.0.0.1)")
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _guarded(socket.socket.connect, 0))
    patch.setattr(socket.socket, "connect_ex", _guarded(socket.socket.connect_ex, 0))
    patch.setattr(socket.socket, "sendto", _guarded(socket.socket.sendto, -1))
    patch.setattr(socket, "getaddrinfo", _guarded_lookup(socket.getaddrinfo))
    patch.setattr(socket, "gethostbyname", _guarded_lookup(socket.gethostbyname))
    config.add_cleanup(patch.undo)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, Any]:
    report = yield
    return _without_extra(report, report.call.excinfo, str(collector.path))  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, Any]:
    return _without_extra((yield), call.excinfo, str(item.path))


def _without_extra(report: Any, raised: pytest.ExceptionInfo[BaseException] | None, path: str) -> Any:
    """The report; of a failure for want of an extra, one of a skipped test."""
    if report.failed and raised is not None and (reason := why_skipped(raised.value)):
        report.outcome, report.longrepr = "skipped", (path, 1, f"Skipped: {reason}")
    return report


@pytest.fixture(autouse=True)
def network_guard(request: pytest.FixtureRequest) -> Iterator[Guard]:
    """Fails the test that tried to reach the network; `network_guard.refused` may be cleared by one that meant to."""
    GUARD.refused.clear()
    GUARD.loopback = request.node.get_closest_marker("allow_loopback") is not None
    yield GUARD
    GUARD.loopback = False
    assert not GUARD.refused, f"this test tried to reach {GUARD.refused}"


@pytest.fixture
def allow_loopback(network_guard: Guard) -> None:
    """The same as the marker, for fixtures and helpers."""
    network_guard.loopback = True


@pytest.fixture(autouse=True)
def fixed_randomness() -> Iterator[None]:
    """One thread (two processes share the machine's cores) and the same seeds before each test, and behind it: what a
    module's fixtures make, which are made before this one, doesn't depend on the tests that came before.
    """
    _start_alike()
    yield
    _start_alike()


def _start_alike() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that still use the global generator
    random.seed(0)


_start_alike()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with fixtures/, data/ and weights/; tests that need it are skipped without it."""
    folder = Path(os.environ.get("ALIGNRANK_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "fixtures").is_dir():
        pytest.skip(f"no oracle fixtures at {folder} (set ALIGNRANK_SHARED to the folder that holds fixtures/)")
    return folder
