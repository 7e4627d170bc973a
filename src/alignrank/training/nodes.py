"""The processes of a training that `torchrun` has started, on one machine or several.

The first one prepares the run and sends the others its plan, as one that starts processes itself does
(docs/decisions/0032). They are connected before anything else, so that one that ends is noticed by the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from alignrank.device import choose_device
from alignrank.errors import InputError, TrainingError, first_line
from alignrank.terminal.progress import console
from alignrank.training.options import RunOptions
from alignrank.training.plan import Plan

# For which a process waits that hears nothing: while the first one evaluates, and of a machine that has lost its power.
# A process that ends, however that comes, is noticed at once.
PATIENCE = timedelta(minutes=30)


@dataclass(slots=True)
class Group:
    """rank: of this process; processes: of all machines. told: whether the others know how they will end."""

    rank: int
    processes: int
    machines: int
    told: bool = False

    def tell(self, word: Plan | int) -> None:
        """Send the others the plan of a training, or the exit code with which all is over."""
        self.told = True
        if isinstance(word, Plan):  # the weights that it begins with are sent by the first process
            word = replace(word, recipe=word.recipe.without_pretrained(), weights=None)
        with ending_with_others(None):
            dist.broadcast_object_list([word])

    def hear(self) -> Plan | int:
        """What the first process tells. Raises TrainingError when it is gone, InputError for what is not here."""
        words: list[Plan | int] = [1]
        with ending_with_others(None):
            dist.broadcast_object_list(words)
        word = words[0]
        if isinstance(word, Plan):
            choose_device(str(word.device))
            if word.resume is not None and not word.resume.is_file():
                raise InputError(f"{word.resume}: is not on this machine; all must see the folder of the run")
        return word


def launched() -> Group | None:
    """What torchrun says of this process and the others; None where it has not started it, or it alone.

    Raises InputError for machines with different numbers of processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return None
    names = ("RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE")
    rank, processes, machines, local = (int(os.environ[name]) for name in names)
    if machines * local != processes:
        raise InputError("torchrun: --nproc-per-node must be the same on all machines")
    return Group(rank, processes, machines)


def settled(options: RunOptions, group: Group | None, run: Path | None = None) -> RunOptions:
    """The same for as many processes as there are; run: the one that goes on.

    Raises InputError where they are for another number, or where torchrun has started the processes and there is no
    `group` of them: in a script of the user's own.
    """
    if group is None:
        if launched() is not None:
            raise InputError("devices: torchrun starts the command line only: torchrun ... -m alignrank train ...")
        return options
    wanted = options.devices
    if wanted != group.processes and (run is not None or wanted != 1):
        of = f"{run}: the run has" if run is not None else "devices: asks for"
        raise InputError(f"{of} {wanted} processes, but torchrun has started {group.processes}")
    return options.model_copy(update={"devices": group.processes})


@contextmanager
def joined() -> Iterator[Group | None]:
    """The processes that torchrun has started with this one, connected until the end; None where there are no others.

    Only the first one speaks. When it ends well, or before it has told a plan, it says so to the others. Raises
    TrainingError if they do not find each other.
    """
    group = launched()
    if group is None:
        yield None
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise TrainingError(f"the processes do not reach each other ({first_line(error)})") from None
    console().quiet = group.rank > 0
    try:
        yield group
        if group.rank == 0:
            group.tell(0)
    except BaseException as error:
        if group.rank == 0 and not group.told:
            with suppress(TrainingError):
                group.tell(2 if isinstance(error, InputError) else 1)
        raise
    finally:
        console().quiet = False
        dist.destroy_process_group()


@contextmanager
def ending_with_others(out: Path | None) -> Iterator[None]:
    """Raises TrainingError, in one sentence, when another process of the training is gone. out: the run's folder."""
    try:
        yield
    except RuntimeError as error:
        if not gone(error):
            raise
        goes_on = "" if out is None else f"; start all of them again with --resume {out}"
        raise TrainingError(
            f"another process of this training has ended, or does not answer ({first_line(error)[-100:]}){goes_on}"
        ) from None


def gone(error: BaseException) -> bool:
    """Whether this is how gloo and NCCL say that another process is gone."""
    return dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def check_images(source: object, count: int) -> None:
    """Raises InputError in all processes unless they can read equally many: else they would wait for each other."""
    if dist.is_initialized():
        counts: list[int] = [0] * dist.get_world_size()
        dist.all_gather_object(counts, count)
        if len(set(counts)) > 1:
            raise InputError(
                f"{source}: of its images the processes can read {', '.join(map(str, counts))[:200]}; every machine "
                "needs the same files at the same paths"
            )
