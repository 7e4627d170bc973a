"""Where results go: always a new folder, never over an earlier one."""

from __future__ import annotations

from pathlib import Path

from alignrank.errors import InputError


def new_run_folder(out: str | Path | None, name: str) -> Path:
    """A folder that does not exist or is empty: `out`, else runs/NAME, runs/NAME-2, ...

    Raises InputError if `out` holds something already.
    """
    if out is not None:
        path = Path(out)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            resume = f", or --resume {path}" if (path / "run.json").exists() else ""
            raise InputError(f"out: {path} already exists and is not empty; choose another folder{resume}")
        return path
    number = 1
    while (path := Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path
