"""The program: errors become one line and an exit code."""

from __future__ import annotations

import errno
import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from alignrank.cli.verbs import app
from alignrank.cores import limit_spinning
from alignrank.errors import (
    INTERRUPTED,
    TERMINATED,
    ExportError,
    InputError,
    TrainingError,
    WorkerError,
    nearest,
    printable,
)
from alignrank.imports import OBJECTS


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"alignrank: {printable(message)}\n")
    raise SystemExit(code)


# Typer brings its own copy of click in some releases; this class is the same to both.
UsageError: Any = typer.BadParameter.__base__


# What a machine can fail in, whatever we do: no space, no permission.
SURROUNDINGS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)


def main() -> None:
    """Entry point: turns errors into one line and an exit code."""
    limit_spinning(os.environ)
    gc.set_threshold(OBJECTS)
    try:
        with _unwinding_when_terminated():
            code = _run()
    except InputError as error:
        _fail(str(error), 2)
    except (TrainingError, ExportError, WorkerError) as error:
        _fail(str(error), 1)
    except (_Interrupted, KeyboardInterrupt, typer.Abort) as error:
        _fail(str(error) or _interrupted(), INTERRUPTED)
    except BrokenPipeError:
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror}", 1)
    except (MemoryError, RuntimeError) as error:
        # PyTorch's own errors are of several classes, and it must not be imported here.
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        _fail("out of memory; use a smaller --batch or --imgsz", 1)
    except UsageError as error:
        _fail(_usage_message(error), 2)
    raise SystemExit(code if isinstance(code, int) else 0)


class _Interrupted(BaseException):
    """Ctrl-C, with what the verb has said about it."""


def _run() -> Any:
    command: Any = typer.main.get_command(app)
    invoke = command.invoke

    def invoked(context: Any) -> Any:
        # Typer would make an exit code of it, and what was said would be lost.
        try:
            return invoke(context)
        except KeyboardInterrupt as error:
            raise _Interrupted(*error.args) from None

    command.invoke = invoked
    return command(prog_name="alignrank", standalone_mode=False)


@contextmanager
def _unwinding_when_terminated() -> Iterator[None]:
    """SIGTERM ends the program by way of what cleans up behind it. Training has handlers of its own."""
    if sys.argv[1:2] in (["train"], ["tune"]) or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: Any) -> NoReturn:
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted() -> str:
    goes_on = "; a training run goes on with `alignrank train --resume RUN`" if "train" in sys.argv[1:2] else ""
    return f"interrupted{goes_on}"


def _usage_message(error: Any) -> str:
    """What was typed wrong, with the nearest right word."""
    message = str(error.format_message())
    command = error.ctx.command if error.ctx is not None else None
    if command is not None and hasattr(error, "option_name"):
        known = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        return f"unknown option {error.option_name}; {nearest(error.option_name, known)}"
    if command is not None and message.startswith("No such command"):
        given = message.split("'")[1]
        return f"unknown command {given!r}; {nearest(given, command.commands)}"
    parameter = getattr(error, "param", None)
    if parameter is not None and not any(name in message for name in [*parameter.opts, parameter.name]):
        message = f"{parameter.opts[-1]}: {message}"
    return message
