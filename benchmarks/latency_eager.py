"""The eager rows of latency.py: detectors in PyTorch as their own libraries run them, which two processes hold.

Each library has a process, for neither imports the other. They take turns row for row: the one that is not asked
sleeps. Both environments import this file, so its imports are of the standard library.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Run by the other environment's Python, after the sources of `randomize` and `answer`.
PEERS = """
import torch, ultralytics
side, threads, *names = sys.argv[1:]
torch.set_num_threads(int(threads))
functions = {}
for name in names:
    torch.manual_seed(0)
    model = ultralytics.YOLO(name.removesuffix("-raw") + ".yaml").model
    model.end2end = not name.endswith("-raw")
    with torch.no_grad(): randomize(model, torch.rand(2, 3, int(side), int(side)))
    functions[name] = model.fuse(verbose=False)
image = torch.rand(1, 3, int(side), int(side))
with torch.inference_mode(): answer({name: lambda model=model: model(image) for name, model in functions.items()})
"""


def answer(functions: dict[str, Callable[[], object]]) -> None:
    """Times the row that a line of stdin names, as often as it says: `NAME TIMES` -> JSON, a list of seconds.

    One run before is not counted: it wakes this process' threads.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        name, times = line.split()
        functions[name]()
        print(json.dumps(timeit.repeat(functions[name], number=1, repeat=int(times))), flush=True)


def answer_ours(rows: Callable[[], Iterable[tuple[str, Any]]], side: int, threads: int) -> None:
    """In our environment: what recipes built, as `predict` runs it, with the outputs of the ONNX files."""
    import torch

    from alignrank.detectors import deployed
    from alignrank.detectors.postprocess import TopK
    from alignrank.export.graph import MAX_DETS, ExportGraph
    from alignrank.nn.csp import split_entries

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    functions, image = {}, torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    for name, built in rows():
        network = split_entries(deployed(built.model.eval())).to(memory_format=torch.channels_last)
        graph = ExportGraph(network, nms_free=isinstance(built.postprocess, TopK), max_dets=MAX_DETS).eval()
        functions[name] = partial(graph, image)
    with torch.inference_mode():
        answer(functions)


class Answering:
    """A process that runs `answer`; it ends with the one that asks, whose pipe it reads."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        # Idle threads would spin into the other's turn.
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        while self._line() != "ready\n":
            pass

    def seconds(self, name: str, times: int) -> list[float]:
        """Of a row."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {times}\n")
        self._process.stdin.flush()
        found: list[float] = json.loads(self._line())
        return found

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"latency: an eager process ended with {self._process.wait()}")
        return line


def peers_program(randomize: Callable[..., None]) -> str:
    """What the other environment's Python is given with -c."""
    head = "import json, sys, timeit\nfrom typing import Any\nfrom collections.abc import Callable\n"
    return head + inspect.getsource(randomize) + inspect.getsource(answer) + PEERS
