"""One-token faults planted in the source, one at a time: which do the tests nearest to them not notice?

    python benchmarks/mutation.py                        # a hundred faults, hours of two cores
    python benchmarks/mutation.py --only losses assign   # in these rooms or files of src/alignrank

Faults are < for <=, == for !=, + for -, * for /, and for or, True for False, min for max, index 0 for 1, a `not` left
out, an integer + 1, a float * 1.1 (one below 1e-5: 0). Strings, annotations, assertions and messages are left alone,
and so is what `faults.EQUIVALENT` names. A file has as many faults as is its share of the code. A fault is put into a
copy of src that PYTHONPATH names; the checkout is not touched. First run the tests that mirror or mention the file, up
to the first failure; if they pass, those of its room, of the files that import it, and the end-to-end ones. A time-out
counts as caught. Only tests that pass without the fault judge it: if one of the nearest fails without it and the others
do not notice it, it is set aside. What is finished is kept in ALIGNRANK_BENCH_CACHE, and run again when the file has
changed, or the tests that a fault outlived.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue
from typing import Any

from faults import EQUIVALENT, Fault, chosen, digest
from nearest import Neighbours
from paired import ROOT, commit

SOURCE = ROOT / "src" / "alignrank"
RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"
CACHE = Path(os.environ.get("ALIGNRANK_BENCH_CACHE", Path.home() / ".cache" / "alignrank-bench")) / "mutation.json"
# Seconds of a test file's run without a fault: of one that is near, and after which it counts as failed.
NEAR_SECONDS, LONGEST = 60.0, 900.0
RUNNING, STOPPED = set[int](), threading.Event()


class Judge:
    """Runs tests against copies of the source, one copy for each job, and remembers what they said."""

    def __init__(self, folder: Path, jobs: int, wide_seconds: float) -> None:
        self.wide_seconds = wide_seconds
        self.memory: dict[str, dict[str, Any]] = {"passes": {}, "seconds": {}, "faults": {}}
        self.memory |= json.loads(CACHE.read_text()) if CACHE.exists() else {}
        self.lock, self.locks = threading.Lock(), defaultdict[str, threading.Lock](threading.Lock)
        self.clean, self.copies = folder / "clean", Queue[Path]()
        shutil.copytree(SOURCE, self.clean / "alignrank", ignore=shutil.ignore_patterns("__pycache__"))
        for number in range(jobs):
            self.copies.put(shutil.copytree(self.clean, folder / str(number)))
        for copy in (self.clean, *self.copies.queue):
            compileall.compile_dir(copy, quiet=1)
            asked = [sys.executable, "-c", "import alignrank; print(alignrank.__file__)"]
            place = subprocess.run(asked, env=environment(copy), capture_output=True, text=True, check=True).stdout
            if Path(place.strip()) != copy / "alignrank" / "__init__.py":
                sys.exit(f"PYTHONPATH does not win: {place.strip()} is imported")
        root = self.clean / "alignrank"
        self.files = {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in sorted(root.rglob("*.py"))}
        self.neighbours = Neighbours(self.files)
        self.source = digest(*self.files.values())

    def remember(self, part: str, key: str, value: Any) -> Any:
        with self.lock:
            self.memory[part][key] = value
            CACHE.parent.mkdir(parents=True, exist_ok=True)
            CACHE.with_suffix(".part").write_text(json.dumps(self.memory))
            CACHE.with_suffix(".part").replace(CACHE)
        return value

    def passes(self, test: str) -> bool:
        """Whether the test file does without a fault; how long it took is remembered too."""
        key = digest(self.source, test, self.neighbours.tests[test])
        with self.locks[key]:
            if key not in self.memory["passes"]:
                begun = time.monotonic()
                failed = first_failure(self.clean, [test], LONGEST)
                if failed:
                    say(f"{failed} fails without a fault: {test} judges nothing")
                else:
                    self.remember("seconds", test, round(time.monotonic() - begun, 2))
                self.remember("passes", key, not failed)
            return self.memory["passes"][key]

    def seconds(self, test: str) -> float:
        """As last seen; of one that was never seen, or fails, infinity."""
        if test not in self.memory["seconds"]:
            self.passes(test)
        return self.memory["seconds"].get(test, math.inf)

    def verdict(self, fault: Fault) -> dict[str, Any]:
        before, after = fault.change
        near, wide = self.neighbours.circles(fault.file)
        tests = digest(
            str(self.wide_seconds), *(part for t in (*near, *wide) for part in (t, self.neighbours.tests[t]))
        )
        known = self.memory["faults"].get(fault.key)
        if known and (known["outcome"] == "killed" or known["tests_digest"] == tests):
            return known
        entry = {"file": fault.file, "line": fault.line, "before": before, "after": after, "tests_digest": tests}
        slow = [test for test in near if self.memory["seconds"].get(test, 0) > NEAR_SECONDS]
        ran, copy = [test for test in near if test not in slow], self.copies.get()
        try:
            with planted(copy / "alignrank" / fault.file, fault):
                failed, failing = self.tried(copy, ran)
                if not failed and not failing:
                    more = self.affordable([*slow, *wide])
                    ran, (failed, _) = ran + more, self.tried(copy, more)
        finally:
            self.copies.put(copy)
        if failed:
            return self.remember("faults", fault.key, entry | {"outcome": "killed", "by": failed})
        if failing:  # not remembered: they may pass tomorrow
            return entry | {"outcome": "set aside", "failing": failing}
        return self.remember("faults", fault.key, entry | {"outcome": "survived", "tests": ran})

    def affordable(self, tests: Iterable[str]) -> list[str]:
        """As many as fit into the time, the quickest first."""
        left, kept = self.wide_seconds, list[str]()
        for test in sorted(tests, key=lambda test: self.memory["seconds"].get(test, NEAR_SECONDS)):
            if left > 0 and (seconds := self.seconds(test)) <= left:
                kept.append(test)
                left -= seconds
        return kept

    def tried(self, copy: Path, tests: list[str]) -> tuple[str | None, list[str]]:
        """The first failure that the fault is to blame for, and the test files that fail without it as well."""
        failing = list[str]()
        while tests:
            limit = 120 + 5 * sum(self.memory["seconds"].get(test, 30) for test in tests)
            failed = first_failure(copy, tests, limit)
            suspects = [test for test in tests if failed and failed.startswith(f"tests/{test}")] or tests
            guilty = [test for test in suspects if failed and not self.passes(test)]
            failing += guilty
            if not guilty:
                return failed, failing
            tests = [test for test in tests if test not in guilty]
        return None, failing


@contextlib.contextmanager
def planted(path: Path, fault: Fault) -> Iterator[None]:
    def write(text: str) -> None:
        path.write_text(text, encoding="utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()

    write(fault.faulty)
    try:
        yield
    finally:
        write(fault.text)


def environment(copy: Path) -> dict[str, str]:
    # Nothing is compiled into the copies: a file changed twice in a second would keep its old bytecode.
    return os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def first_failure(copy: Path, tests: Sequence[str], limit: float) -> str | None:
    """The first test that fails with this copy of the source; None if none does."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-m", "not slow"]
    command += [f"tests/{test}" for test in tests]
    if STOPPED.is_set():
        raise InterruptedError
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(copy), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        RUNNING.add(process.pid)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"time limit of {limit:.0f} s"
        finally:
            end_group(process.pid)
            process.wait()
            RUNNING.discard(process.pid)
        if STOPPED.is_set():
            raise InterruptedError  # ended by us, not by its tests
        output.seek(0)
        text = output.read().decode(errors="replace")
    if code in (0, 5):  # 5: no tests, all of them slow
        return None
    named = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, re.MULTILINE)
    return named[1] if named else f"pytest ended with {code}: {text.strip().splitlines()[-1:]}"


def end_group(process: int) -> None:
    """The process and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def stop(*_: object) -> None:
    STOPPED.set()
    for process in list(RUNNING):
        end_group(process)
    sys.exit("stopped; the same command goes on from here")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--wide", type=float, default=300, help="seconds of tests for what the nearest do not notice")
    parser.add_argument("--only", nargs="+", default=[], help="files or rooms of src/alignrank")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        judge = Judge(Path(folder), arguments.jobs, arguments.wide)
        wanted = [part.removeprefix("src/alignrank/").rstrip("/") for part in arguments.only]
        files = {
            file: text
            for file, text in judge.files.items()
            if not wanted or any(file == part or file.startswith(part + "/") for part in wanted)
        }
        faults = chosen(files, arguments.count, arguments.seed)
        futures = [pool.submit(judge.verdict, fault) for fault in faults]
        for number, future in enumerate(as_completed(futures), 1):
            entry = future.result()
            how = entry.get("by") or ", ".join(entry.get("failing", []))
            say(f"{number}/{len(faults)} {entry['outcome']} {entry['file']}:{entry['line']} {entry['after']} [{how}]")
    entries = [{k: v for k, v in future.result().items() if k != "tests_digest"} for future in futures]
    groups = {
        outcome: [
            {k: v for k, v in entry.items() if k != "outcome"} for entry in entries if entry["outcome"] == outcome
        ]
        for outcome in ("survived", "set aside", "killed")
    }
    table = {
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(), "seed": arguments.seed, "faults": len(faults),
        "counts": {outcome: len(group) for outcome, group in groups.items()},
        **groups,
        "equivalent": [{"file": file, "line": line, "why": why} for (file, line), why in EQUIVALENT.items()],
    }  # fmt: skip
    arguments.out.write_text(json.dumps(table, indent=1) + "\n")
    print(", ".join(f"{len(group)} {outcome}" for outcome, group in groups.items()))


if __name__ == "__main__":
    main()
