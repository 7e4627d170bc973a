"""Each extra of pyproject.toml alone in a clean environment: its tests run there, and without it they are skipped.

    make extras                      # all of them, 4 GB below build/extras
    make extras EXTRAS="tune serve"

Packages come from pip's index; PyTorch and its libraries, 5 GB, are links to those of the interpreter that runs this.
One environment has the wheel and pytest; that of an extra lies on top, so that what it holds is what the extra brings.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "build" / "extras"
FORMATS = "tests/export/test_formats.py"
# What shows that an extra has all that it needs. All of these need it: without it nothing is left that could pass.
TESTS = {
    "train": ["tests/training/test_callbacks.py"],
    "report": ["tests/evaluation/test_diagnose.py"],
    "video": ["tests/inference/test_rtsp.py"],
    "track": ["tests/inference/test_tracking.py"],
    "heic": ["tests/data/test_decode.py::test_heic"],
    "export": [f"{FORMATS}::test_a_file_runs_as_the_network[onnx-postprocess0-False]", "tests/export/test_deploy.py"],
    "openvino": [f"{FORMATS}::test_a_file_runs_as_the_network[openvino-postprocess0-False]"],
    "litert": [f"{FORMATS}::test_litert"],
    "coreml": [f"{FORMATS}::test_core_ml_is_written_with_its_metadata"],
    "parquet": ["tests/data/test_parquet.py"],
    "digits": ["tests/data/test_digits.py"],
    "tensorboard": ["tests/training/test_loggers.py::test_tensorboard_holds_figures_and_pictures"],
    "mlflow": ["tests/training/test_loggers.py::test_mlflow_holds_figures_and_pictures_of_one_run"],
    "wandb": ["tests/training/test_loggers.py::test_wandb_holds_figures_and_pictures_offline"],
    "tune": ["tests/tuning/test_study.py"],
    "supervision": ["tests/test_detections.py::test_supervision_detections_carry_everything"],
    "transformers": ["tests/data/test_host_pictures.py", "tests/plug/test_transformers_loss.py"],
    "docs": ["tests/test_site.py::test_a_small_site_is_built"],
    "ray": ["tests/inference/test_ray.py"],
    "serve": ["tests/serve/test_requests.py", "tests/serve/test_worker.py"],
}
# Of PyTorch's requirements those that hold its compiled parts.
LARGE = re.compile(r"torch$|torchvision$|triton$|nvidia-|cuda-")


class Ran(NamedTuple):
    """Of a run of pytest."""

    passed: int
    skipped: int
    failed: bool
    text: str


def main(extras: list[str]) -> int:
    unknown = [name for name in extras if name not in TESTS]
    if unknown:
        sys.exit(f"extras: unknown {unknown[0]!r}; known: {', '.join(TESTS)}")
    base = PLACE / "base"
    _create(base, [_linked()])
    wheel = _wheel()
    _install(base, str(wheel), "pytest")
    bad = []
    print("extra          packages      MB  passed  skipped without it")
    for name in extras or TESTS:
        tests = TESTS[name]
        without = _tested(base, tests)
        environment = PLACE / name
        _create(environment, [PLACE / "torch", _packages(base)])
        _install(environment, f"alignrank[{name}] @ {wheel.as_uri()}")
        alone = _tested(environment, tests)
        size = sum(file.stat().st_size for file in _packages(environment).rglob("*") if file.is_file()) / 1e6
        count = sum(not file.name.startswith("alignrank-") for file in _packages(environment).glob("*.dist-info"))
        print(f"{name:14} {count:8} {size:7.0f} {alone.passed:7} {without.skipped:19}", flush=True)
        if alone.failed or not alone.passed or "(extra" in alone.text:
            bad.append(f"{name}: its tests do not run with it\n{alone.text}")
        if without.failed or without.passed or not without.skipped:
            bad.append(f"{name}: its tests are not skipped without it\n{without.text}")
    print("\n".join(bad), file=sys.stderr)
    return bool(bad)


def _linked() -> Path:
    """A folder with links to this interpreter's PyTorch."""
    folder = PLACE / "torch"
    folder.mkdir(parents=True, exist_ok=True)
    for one in metadata.distributions():
        if LARGE.match(one.name.lower().replace("_", "-")):
            parts = {file.parts[0] for file in one.files or [] if file.parts[0] not in ("..", "__pycache__")}
            for part in parts:
                (folder / part).unlink(missing_ok=True)
                (folder / part).symlink_to(Path(str(one.locate_file(part))))
    return folder


def _create(environment: Path, below: list[Path]) -> None:
    """A clean one that sees the packages in folders `below`. The first has the pip that installs into all."""
    pip = [] if environment.name == "base" else ["--without-pip"]
    subprocess.run([sys.executable, "-m", "venv", "--clear", *pip, str(environment)], check=True)
    (_packages(environment) / "below.pth").write_text("".join(f"{folder}\n" for folder in below))


def _wheel() -> Path:
    _pip("wheel", "--no-deps", "--wheel-dir", str(PLACE), str(ROOT))
    (path,) = PLACE.glob("alignrank-*.whl")
    return path


def _install(environment: Path, *wanted: str) -> None:
    _pip("--python", str(environment), "install", "--no-compile", *wanted)


def _pip(*arguments: str) -> None:
    command = [str(PLACE / "base" / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True)


def _packages(environment: Path) -> Path:
    (folder,) = environment.glob("lib/python*/site-packages")
    return folder


def _tested(environment: Path, tests: list[str]) -> Ran:
    """The tests, from here, of the package that is installed there."""
    command = [str(environment / "bin" / "python"), "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    settings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|skipped|failed|error)", done.stdout)}
    # Where a whole file is skipped, none was collected (5), or one that is named was not found in it (4).
    skipped = done.returncode == 5 or (done.returncode == 4 and "found no collectors" in done.stdout + done.stderr)
    failed = not (done.returncode == 0 or skipped) or bool(counts.get("failed", 0) + counts.get("error", 0))
    return Ran(counts.get("passed", 0), counts.get("skipped", 0), failed, done.stdout + done.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
