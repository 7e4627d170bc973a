"""`alignrank serve` under load: latency, requests a second and memory, eager and ONNX, with and without batching.

    python benchmarks/serving.py                                        # alignrank-n, random weights, 320 px
    python benchmarks/serving.py --weights runs/x --seconds 10

CLIENTS clients send one picture after another over connections that they keep, for some seconds, to a server of its own
for each row. Then 200 connections that never finish their requests are opened beside one good client, and SIGTERM comes
while all clients send. Answers are compared with `predict`, boxes only of trained weights: random scores are too near
to each other to have an order. Clients run in this process, on the same cores.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import ROOT, commit
from PIL import Image

import alignrank
from alignrank.inference.drawn_scenes import drawn_scene

RESULTS = ROOT / "benchmarks" / "results" / "serving.json"
SIDE, CLIENTS, SLOW, PICTURES = 320, 64, 200, 8
QUERY = "/predict?conf=0&max_dets=20"  # random weights score low


@dataclass
class Seen:
    """By all clients of a row. lost: requests that were sent and got no answer. took: seconds until the last answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    took: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, status: int, seconds: float) -> None:
        with self.lock:
            self.statuses[status] += 1
            if status == 200:
                self.seconds.append(seconds)


class Served:
    """A process that serves a file."""

    def __init__(self, weights: Path, batch: int) -> None:
        command = [sys.executable, "-m", "alignrank", "serve", "--weights", str(weights), "--port", "0", "--square"]
        command = command[:-1] if weights.suffix == ".onnx" else command
        self.process = subprocess.Popen([*command, "--batch", str(batch)], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("serving "):
                self.port = int(line.partition("http://127.0.0.1:")[2].partition("/")[0])
                return
        raise SystemExit("the server did not start")

    def memory(self) -> int:
        """Bytes resident."""
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def pictures() -> list[bytes]:
    """JPEGs of 640 x 480."""
    rng, made = np.random.default_rng(0), []
    for _ in range(PICTURES):
        stream = io.BytesIO()
        Image.fromarray(drawn_scene(rng, 480, 640)).save(stream, format="JPEG", quality=90)
        made.append(stream.getvalue())
    return made


def client(port: int, sent: list[bytes], seen: Seen, until: threading.Event, number: int) -> None:
    """One client: a picture after another, a new connection where the server has closed the last."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not until.is_set():
        number += 1
        try:
            if connection.sock is None:
                connection.connect()
        except OSError:  # it has ended
            return
        began = time.perf_counter()
        try:
            connection.request("POST", QUERY, sent[number % len(sent)], {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            with seen.lock:
                seen.lost[type(error).__name__] += 1
            connection.close()
            continue
        seen.add(answer.status, time.perf_counter() - began)
    connection.close()


def load(port: int, sent: list[bytes], seconds: float, meanwhile: Any) -> Seen:
    """CLIENTS clients for so long; meanwhile() is called after a fifth of it, and at the end."""
    seen, until = Seen(), threading.Event()
    threads = [threading.Thread(target=client, args=(port, sent, seen, until, i)) for i in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds / 5)
    meanwhile()
    time.sleep(seconds * 4 / 5)
    until.set()
    for thread in threads:
        thread.join()
    seen.took = time.perf_counter() - began
    meanwhile()
    return seen


def asked(port: int, picture: bytes) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", QUERY, picture, {"Content-Type": "image/jpeg"})
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return found


def differences(port: int, weights: Path, sent: list[bytes]) -> dict[str, float]:
    """Of answers and `predict`: the largest of scores, and of boxes in px where no two scores are within 1e-6; how many
    of each there were.
    """
    detector, scores, boxes, counts = alignrank.Detector.load(weights), 0.0, 0.0, [0, 0]
    rect = None if weights.suffix == ".onnx" else False
    for picture in sent:
        (own,) = detector.predict(picture, conf=0, max_dets=20, rect=rect, device="cpu")
        found = asked(port, picture)
        assert len(found["scores"]) == len(own)
        theirs = np.array(found["scores"])
        scores = max(scores, float(np.abs(theirs - own.scores.numpy()).max(initial=0)))
        gaps = np.abs(np.diff(theirs, prepend=2, append=-1))
        clear = (gaps[:-1] > 1e-6) & (gaps[1:] > 1e-6)
        counts = [counts[0] + len(theirs), counts[1] + int(clear.sum())]
        apart = np.abs(np.array(found["boxes"]).reshape(-1, 4) - own.boxes.numpy())[clear]
        boxes = max(boxes, float(apart.max(initial=0)))
    return {"score": round(scores, 7), "box_px": round(boxes, 3), "scores": counts[0], "boxes": counts[1]}


def beside_slow_ones(port: int, picture: bytes) -> float:
    """Seconds of the slowest of five good requests while SLOW connections never finish theirs."""
    slow = []
    for i in range(SLOW):
        connection = socket.create_connection(("127.0.0.1", port))
        head = b"POST /predict HTTP/1.1\r\nHost: here\r\n"
        connection.sendall(head if i % 2 else head + b"Content-Length: 1000\r\n\r\nabc")
        slow.append(connection)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        asked(port, picture)
        took.append(time.perf_counter() - began)
    for connection in slow:
        connection.close()
    return max(took)


def ended_under_load(served: Served, sent: list[bytes]) -> dict[str, Any]:
    """SIGTERM while all clients send: what was answered after it, what was lost, and the exit code."""
    seen, until = Seen(), threading.Event()
    arguments = [(served.port, sent, seen, until, i) for i in range(CLIENTS)]
    threads = [threading.Thread(target=client, args=of) for of in arguments]
    for thread in threads:
        thread.start()
    time.sleep(2)
    before = sum(seen.statuses.values())
    code = served.end()
    for thread in threads:
        thread.join()
    answered = sum(seen.statuses.values()) - before
    return {"exit_code": code, "answered_after": answered, "lost": dict(seen.lost), "statuses": dict(seen.statuses)}


def row(weights: Path, batch: int, sent: list[bytes], seconds: float) -> dict[str, Any]:
    """All figures of one server."""
    served, memory = Served(weights, batch), list[int]()
    try:
        apart = differences(served.port, weights, sent)
        seen = load(served.port, sent, seconds, lambda: memory.append(served.memory()))
        slow = beside_slow_ones(served.port, sent[0])
        end = ended_under_load(served, sent)
    finally:
        served.process.kill()
    cuts = statistics.quantiles(seen.seconds, n=100)
    return {
        "statuses": dict(seen.statuses),
        "lost": dict(seen.lost),
        "requests_a_second": round(len(seen.seconds) / seen.took, 1),
        "p50_ms": round(cuts[49] * 1000, 1),
        "p99_ms": round(cuts[98] * 1000, 1),
        "memory_mb": [round(value / 1e6) for value in memory],
        "memory_growth": round(memory[-1] / memory[0] - 1, 4),
        "beside_slow_connections_s": round(slow, 3),
        "largest_difference_to_predict": apart,
        "sigterm": end,
    }


def random_weights(folder: Path) -> Path:
    """alignrank-n, as trained weights are saved."""
    from alignrank.weights import checkpoint
    from alignrank.weights.recipe import load_recipe

    torch.manual_seed(0)
    recipe = load_recipe("alignrank-n", num_classes=80, overrides={"train.imgsz": SIDE})
    names = [str(label) for label in range(80)]
    path = folder / "w.safetensors"
    checkpoint.save(path, recipe.build().model.state_dict(), recipe=recipe, classes=names, metrics={})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a .safetensors file or a run's folder [default: random ones]")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = arguments.weights or random_weights(folder)
        exported = alignrank.Detector.load(weights).export("onnx", out=folder / "w.onnx", check=False)
        sent, rows = pictures(), {}
        for engine, file in (("eager", weights), ("onnx", exported)):
            for batch in (1, 8):
                rows[f"{engine}, batches of {batch}"] = row(file, batch, sent, arguments.seconds)
                print(json.dumps({f"{engine}, batches of {batch}": rows[f"{engine}, batches of {batch}"]}, indent=1))
    table = {
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "torch": torch.__version__,
        "device": f"cpu ({platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads)",
        "clients": CLIENTS,
        "slow_connections": SLOW,
        "seconds": arguments.seconds,
        "pictures": f"{PICTURES} JPEGs of 640 x 480, {round(statistics.mean(map(len, sent)) / 1000)} kB",
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
