"""Requests of all kinds: good ones get the boxes of `predict`, bad ones one sentence, and then a good one its boxes."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
from running import QUICK, SECRET, Answer, Client, answered, finder_pipeline, form, picture, serving

from alignrank.contracts import WantedThresholds
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import Pipeline, predict

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
HEAD = b"POST /predict HTTP/1.1\r\nHost: here\r\n"
CASES = (
    *("http_not_image", "http_wrong_content_type", "http_bomb", "http_too_large", "http_lying_content_length"),
    *("http_url_in_json", "http_json_nan_param", "http_no_token"),
)
pytestmark = pytest.mark.allow_loopback


@pytest.fixture(scope="module")
def run() -> Pipeline:
    return finder_pipeline()


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest, run: Pipeline) -> Iterator[Client]:
    # Fixtures of a module start before, and end after, those of a test, which open the way to this machine itself.
    guard = request.config.pluginmanager.get_plugin(str(CONFTEST)).GUARD
    guard.loopback = True
    with serving(run, token=SECRET, batch=8) as started:
        yield started
        guard.loopback = True
    guard.loopback = False


def expected(run: Pipeline, content: bytes, **options: Any) -> dict[str, Any]:
    (found,) = predict(run.detector, [("image", content)], PredictOptions(**options))
    return found.to_dict()


def same(found: Answer, wanted: dict[str, Any]) -> None:
    """To what a batch of another size changes in the last digit."""
    assert found.status == 200, found.body
    assert found.json.keys() == wanted.keys()
    for key in ("source", "path", "size", "labels", "names"):
        assert found.json[key] == wanted[key]
    assert found.json["scores"] == pytest.approx(wanted["scores"], abs=2e-6)
    assert len(found.json["boxes"]) == len(wanted["boxes"])
    for box, other in zip(found.json["boxes"], wanted["boxes"], strict=True):
        assert box == pytest.approx(other, abs=2e-3)


def refused(answer: Answer, status: int, *words: str) -> None:
    """One sentence in `error`, which names nothing of this machine."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == ["error"]
    message = answer.json["error"]
    for word in words:
        assert word in message
    assert "Traceback" not in message
    for place in ("site-packages", "alignrank/", "/tmp", "/root", "/home", sys.prefix):
        assert place not in message


def good(client: Client, run: Pipeline) -> None:
    same(client.predict(picture(), "?conf=0.3"), expected(run, picture(), thresholds=WantedThresholds(0.3)))


def test_boxes_are_those_of_predict(client: Client, run: Pipeline) -> None:
    content = picture(1, (80, 120), "JPEG")
    found = client.predict(content, kind="image/jpeg")
    same(found, expected(run, content))
    assert found.json["names"] == ["red", "blue"]
    assert found.json["boxes"][0] == pytest.approx([31, 26, 90, 60], abs=2)
    body, kind = form(("file", "../../etc/passwd", content))
    same(client.predict(body, kind=kind), expected(run, content))
    for query, names in {
        "conf=0.85": ["red"],
        "max_dets=1": ["red"],
        "classes=blue": ["blue"],
        "classes=blue&conf=0.85": [],
        "classes=red,blue": ["red", "blue"],
        "classes=red&classes=1": ["red", "blue"],
    }.items():
        assert client.predict(content, f"?{query}").json["names"] == names


def test_many_at_once(client: Client, run: Pipeline) -> None:
    """Of two shapes and two thresholds, in any order: each gets its own."""
    sizes = [(60, 90), (90, 60), (60, 90)] * 8
    contents = [picture(number, size) for number, size in enumerate(sizes)]
    confs = [0.3 if number % 2 else 0.85 for number in range(len(sizes))]
    with ThreadPoolExecutor(8) as pool:
        queries = [f"?conf={conf}" for conf in confs]
        answers = list(pool.map(client.predict, contents, queries))
    for content, conf, answer in zip(contents, confs, answers, strict=True):
        same(answer, expected(run, content, thresholds=WantedThresholds(conf)))


def test_a_picture_just_below_the_limit(client: Client, run: Pipeline) -> None:
    content = picture(2, (2200, 2500), "BMP")
    assert 0.95 < len(content) / client.service.options.limits.body < 1
    same(client.predict(content, kind="image/bmp"), expected(run, content))
    body, kind = form(("file", "a.bmp", content))
    same(client.predict(body, kind=kind), expected(run, content))


@pytest.mark.parametrize("name", CASES)
def test_cases_of_the_manifest(client: Client, run: Pipeline, shared: Path, name: str) -> None:
    folder = shared / "bad_inputs" / name
    case = next(
        case for case in json.loads((folder.parent / "manifest.json").read_text())["cases"] if case["id"] == name
    )
    asked = json.loads((folder / "request.json").read_text())
    token = {} if "server_token" in asked else {"Authorization": f"Bearer {SECRET}"}
    if "raw_head" in asked:
        head = HEAD + f"Authorization: Bearer {SECRET}\r\n{asked['raw_head']}\r\n\r\n".encode()
        answer = raw(client, head + b"x" * asked["send_bytes"])
    else:
        generated = asked.get("body_generated", {"byte": 0, "count": 0})
        body = (folder / asked["body_file"]).read_bytes() if "body_file" in asked else bytes(generated["count"])
        body = json.dumps(asked["json"]).encode() if "json" in asked else body
        headers = {"Content-Type": asked["content_type"], **token, **asked.get("headers", {})}
        answer = client.send(asked["method"], f"/predict?{asked.get('query', '')}", body, headers)
    refused(answer, case["expect_status"])
    good(client, run)


def raw(client: Client, sent: bytes) -> Answer:
    """To bytes that no client library would send."""
    return answered(client.opened(sent))


def _chunks() -> Iterator[bytes]:
    for _ in range(40):
        yield bytes(2**20)


AUTHORIZED = {"Authorization": f"Bearer {SECRET}"}
JPEG = {**AUTHORIZED, "Content-Type": "image/jpeg"}
LINE = f"Authorization: Bearer {SECRET}\r\n".encode()
MANY = "?" + "&".join(f"{i}=1" for i in range(10_000))
HOSTILE: dict[str, tuple[int, str, Callable[[Client], Answer]]] = {
    "oversized and chunked": (413, "more bytes", lambda client: client.send("POST", "/predict", _chunks(), JPEG, True)),
    "slow headers": (408, "headers", lambda client: raw(client, b"POST /predict HT")),
    "slow body": (408, "body", lambda client: raw(client, HEAD + LINE + b"Content-Length: 9999\r\n\r\nabc")),
    "slow chunks": (
        408, "body", lambda client: raw(client, HEAD + LINE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    ),
    "head without end": (400, "too long", lambda client: raw(client, HEAD + b"X: " + b"a" * 400_000)),
    "no HTTP": (400, "no valid HTTP", lambda client: raw(client, b"\x16\x03\x01\x02\x00\x01\r\n\r\n")),
    "two files": (422, "one file, got 2", lambda client: _form(client, ("a", "a", picture()), ("b", "b", picture()))),
    "no file": (422, "the field 'a'", lambda client: _form(client, ("a", None, b"a"))),
    "an empty file": (422, "the file is empty", lambda client: _form(client, ("file", "a", b""))),
    "many parts": (400, "Too many", lambda client: _form(client, *[("a", "a", b"a")] * 1000)),
    "a path in a field": (422, "'image'", lambda client: _form(client, ("image", None, b"/etc/passwd"))),
    "an address in a field": (
        422, "'url'", lambda client: _form(client, ("file", "a", picture()), ("url", None, b"http://127.0.0.1:9/")),
    ),
    "an address as the body": (
        422, "not an image", lambda client: client.send("POST", "/predict", b"http://127.0.0.1:9/a.png", JPEG),
    ),
    "a path in the query": (422, "'path'", lambda client: client.predict(picture(), "?path=/etc/passwd")),
    "no boundary": (400, "boundary", lambda client: client.predict(picture(), kind="multipart/form-data")),
    "broken form": (400, "form", lambda client: client.predict(b"--yy", kind="multipart/form-data; boundary=xx")),
    "a wrong token": (
        401, "token", lambda client: client.send("POST", "/predict", picture(), {"Authorization": "Bearer secreT"}),
    ),
    "a token of other letters": (
        401, "token", lambda client: client.send("POST", "/predict", picture(), {"Authorization": "Bearer s\xe9cret"}),
    ),
    "10,000 parameters": (
        422, "unknown parameter", lambda client: client.predict(picture(), MANY),
    ),
    "compressed": (
        415, "encoding", lambda client: client.send("POST", "/predict", b"", JPEG | {"Content-Encoding": "gzip"}),
    ),
    "empty": (422, "no body", lambda client: client.predict(b"")),
    "too many boxes": (422, "max_dets", lambda client: client.predict(picture(), f"?max_dets={10**30}")),
    "unknown class": (422, "did you mean 'red'", lambda client: client.predict(picture(), "?classes=rd")),
    "GET": (405, "Not Allowed", lambda client: client.get("/predict")),
    "elsewhere": (404, "Not Found", lambda client: client.get("/../../etc/passwd")),
}  # fmt: skip


def _form(client: Client, *parts: tuple[str, str | None, bytes]) -> Answer:
    body, kind = form(*parts)
    return client.predict(body, kind=kind)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests(client: Client, run: Pipeline, name: str) -> None:
    status, word, send = HOSTILE[name]
    if name == "10,000 parameters":
        answer = send(client)
        # A head that comes in pieces ends at h11's 16 kB.
        assert answer.status in (400, status)
        refused(answer, answer.status)
    else:
        refused(send(client), status, word)
    good(client, run)


def test_who_leaves_is_not_missed(client: Client, run: Pipeline) -> None:
    client.opened(HEAD + LINE + b"Content-Length: 100\r\n\r\nabc").close()
    client.opened().close()
    good(client, run)


def test_slow_connections_keep_nobody_waiting(run: Pipeline) -> None:
    with serving(run, replace(QUICK, head_seconds=60, body_seconds=60)) as client:
        slow = [client.opened(b"POST /pred" if i % 2 else HEAD + b"Content-Length: 100\r\n\r\nabc") for i in range(200)]
        good(client, run)
        for connection in slow:
            connection.close()


def send_until_closed(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def test_who_does_not_read_is_left(client: Client, run: Pipeline) -> None:
    """Ten megabytes of answers, and nobody takes them."""
    connection = client.opened(b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * 3000)
    with pytest.raises(OSError, match=r"reset|pipe"):
        send_until_closed(connection)
    connection.close()
    good(client, run)


def test_too_many_connections_make_room(run: Pipeline) -> None:
    with serving(run, replace(QUICK, head_seconds=60, connections=4)) as client:
        silent = [client.opened() for _ in range(4)]
        good(client, run)
        assert silent[0].recv(1) == b""
        for connection in silent:
            connection.close()


def test_a_full_queue_sends_away(run: Pipeline) -> None:
    with serving(run, queue=1) as client:
        client.service.queued = 1
        answer = client.predict(picture())
        refused(answer, 503, "try again")
        assert answer.headers["retry-after"] == "1"
        client.service.queued = 0
        good(client, run)


def test_bodies_together_have_a_limit(run: Pipeline) -> None:
    with serving(run, replace(QUICK, held=1000, body_seconds=60)) as client:
        waiting = client.opened(HEAD + b"Content-Length: 1000\r\n\r\n" + bytes(900))
        while b"alignrank_queue" not in client.get("/metrics").body or client.service.queued:
            pass
        refused(client.predict(picture()), 503, "too many")
        waiting.close()


def test_a_fault_names_no_path(
    run: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from alignrank.errors import InputError

    def failing(self: Pipeline, items: Any) -> Any:
        raise InputError("/root/secret/model.onnx: its runtime cannot run it")

    with serving(run) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "detected", failing)
            refused(client.predict(picture()), 500, "its log says why")
        good(client, run)
    assert "/root/secret/model.onnx" in caplog.text  # the operator's


def test_tells_how_it_is(client: Client) -> None:
    assert client.get("/healthz").json == {"status": "alive"}
    assert client.get("/readyz").json == {"status": "ready"}
    refused(client.get("/metrics"), 401, "token")
    text = client.send("GET", "/metrics", headers=AUTHORIZED).body.decode()
    assert 'alignrank_requests_total{path="/healthz",status="200"}' in text
    assert "alignrank_batch_images_count" in text
    assert "process_resident_memory_bytes" in text
    described = client.get("/openapi.json").json
    assert {"/predict", "/healthz", "/readyz", "/metrics"} == set(described["paths"])
    assert {item["name"] for item in described["paths"]["/predict"]["post"]["parameters"]} == {
        "conf",
        "classes",
        "max_dets",
    }
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.status == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not [word for word in page.body.split() if b"https://" in word]
