"""The program: errors become one line and an exit code."""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import Any, NoReturn

import typer

from alignrank.cli.verbs import app
from alignrank.cores import limit_spinning
from alignrank.errors import InputError, TrainingError, nearest, printable


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
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except TrainingError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; a training run goes on with `alignrank train --resume RUN`", 130)
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
