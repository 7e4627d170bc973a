"""`serve` as a program: its options, its beginning, and an end that loses no request."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from command_line import alignrank, environment, refused
from tiny_weights import write_tiny_weights

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
from running import answered, finder_pipeline, picture, serving

from alignrank import Detector
from alignrank.export.runtimes import ready
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import Pipeline, pipeline
from alignrank.weights.deployed import SelectionOptions

pytestmark = pytest.mark.allow_loopback


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "w.safetensors")


def test_options_that_cannot_be_used(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(*words: str) -> subprocess.CompletedProcess[str]:
        return alignrank("serve", "--weights", str(weights), "--device", "cpu", *words)

    monkeypatch.delenv("ALIGNRANK_TOKEN", raising=False)
    refused(alignrank("serve", "--weights", "absent.onnx"), "no file absent.onnx")
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        refused(serve("--host", host), "token: ", host, "--token or ALIGNRANK_TOKEN")
    refused(serve("--token", ""), "token: must be of printable ASCII")
    refused(serve("--port", "70000"), "port")
    refused(serve("--classes", "rex", "--port", "0"), "classes: unknown class 'rex'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(serve("--port", str(port)), f"host: 127.0.0.1 port {port}", "choose another")


def test_without_the_extra(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignrank import extras

    find = extras.importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    refused(alignrank("serve", "--weights", str(weights)), "package uvicorn is not installed (extra 'serve'")


def test_sigterm_ends_the_program_with_0(weights: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "alignrank", "serve", "--weights", str(weights), "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = next(word for word in line.split() if word.startswith("http")).rstrip(";")
        with urllib.request.urlopen(f"{address}healthz", timeout=60) as response:
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "")
    assert err.splitlines()[-1] == "ended; all requests were answered"
    assert "Traceback" not in err


def test_an_exported_file(weights: Path) -> None:
    """As `predict` sees it with the same file."""
    file = Detector.load(weights).export("torchscript", out=weights.with_suffix(".torchscript"), check=False)
    (own,) = Detector.load(file).predict(picture(), conf=0.3, max_dets=5)
    with serving(pipeline(ready(file, "cpu", SelectionOptions()), PredictOptions()), batch=2) as client:
        found = client.predict(picture(), "?conf=0.3&max_dets=5")
    wanted = own.to_dict()
    assert found.json["scores"] == pytest.approx(wanted["scores"], abs=2e-6)
    assert len(wanted["scores"]) == 5
    assert found.json | {"source": ""} == wanted | {"source": "", "scores": found.json["scores"]}


def test_what_is_under_way_is_answered_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is held back until the server has been told to end."""
    run, going, go = finder_pipeline(), threading.Semaphore(0), threading.Event()
    detected = Pipeline.detected

    def held(self: Pipeline, items: Any) -> Any:
        going.release()
        go.wait(60)
        return detected(self, items)

    monkeypatch.setattr(Pipeline, "detected", held)
    with ThreadPoolExecutor(4) as pool, serving(run) as client:
        answers = [pool.submit(client.predict, picture(seed)) for seed in range(4)]
        going.acquire()
        while client.service.queued < 4:
            pass
        silent = client.opened()
        client.service.draining = True
        state = client.get("/readyz")
        assert state.status == 503
        assert state.headers["connection"] == "close"
        threading.Timer(0.5, go.set).start()
    assert [answer.result().status for answer in answers] == [200] * 4
    with pytest.raises(OSError, match="refused"):
        client.opened()
    silent.close()


def test_a_connection_is_kept() -> None:
    """Two requests over one, the second in two pieces."""
    with serving(finder_pipeline()) as client:
        connection = client.opened(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        first = HTTPResponse(connection)
        first.begin()
        assert (first.status, first.read()) == (200, b'{"status":"alive"}')
        connection.sendall(b"GET /readyz HT")
        connection.sendall(b"TP/1.1\r\nHost: here\r\n\r\n")
        assert answered(connection).status == 200
