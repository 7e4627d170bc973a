"""The trials of a study in Optuna's storage, shared by any number of processes.

Who runs a trial holds a lock on a file of its number; the system lets go of it when the process ends, however that
comes. So a running trial whose lock is free is that of a dead process, and is tried again without any waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import filelock
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from alignrank.errors import InputError, first_line
from alignrank.terminal.progress import warn
from alignrank.tuning.options import TuneOptions
from alignrank.tuning.space import Range, Space, ends_of, is_whole, value_of
from alignrank.weights.recipe import Recipe

DATABASE, LOCK, TRIALS = "study.db", "study.lock", "trials"
# Processes that may die of one trial before it counts as failed.
MAX_ATTEMPTS = 3
STARTUP_TRIALS = 5  # that no trial is ended before
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(slots=True)
class Trials:
    """A study in `out`: what is asked of Optuna, and who does which trial."""

    study: optuna.Study
    out: Path
    distributions: dict[str, BaseDistribution]
    options: TuneOptions
    seed: int

    @contextmanager
    def next(self) -> Iterator[optuna.Trial | None]:
        """The next trial, which is this process's for the block; None where all are done or under way.

        A trial that the block leaves open, by whatever exception, is tried again.
        """
        with exclusive(self.out):
            self._retry_the_dead()
            if self.num_counted() >= self.options.trials:
                trial, lock = None, None
            else:
                # A seed of its own for each trial: processes that ask in turn must not ask for the same.
                known = len(self.study.get_trials(deepcopy=False))
                self.study.sampler = optuna.samplers.TPESampler(seed=(self.seed + known) % 2**32)
                trial = self.study.ask(self.distributions)
                lock = self._lock(trial.number)
                lock.acquire()
                trial.set_user_attr("folder", str(self.folder(trial.number).absolute()))
        if trial is None or lock is None:
            yield None
            return
        try:
            yield trial
        finally:
            with exclusive(self.out):
                left = self.found(trial.number)
                if left.state == TrialState.RUNNING:
                    self._retry(left, int(left.user_attrs.get("attempt", 1)))
                Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()

    def folder(self, number: int) -> Path:
        """Of a trial's training."""
        return self.out / TRIALS / f"{number:04d}"

    def found(self, number: int) -> FrozenTrial:
        """A trial as the storage knows it."""
        return self.study.get_trials(deepcopy=False)[number]

    def finished(self) -> list[FrozenTrial]:
        """Trials that ended, but for those that were tried again."""
        retried = self._retried()
        return [t for t in self.study.get_trials(deepcopy=False, states=OVER) if t.number not in retried]

    def best(self) -> FrozenTrial | None:
        """Of those that were trained to the end; None before there is one."""
        complete = [trial for trial in self.finished() if trial.state == TrialState.COMPLETE]
        sign = 1 if self.options.direction == "maximize" else -1
        return max(complete, key=lambda trial: sign * float(trial.value or 0.0), default=None)

    def num_counted(self) -> int:
        """Trials that ended or are under way."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return len(self.finished()) + len(running)

    def give_up(self, trial: optuna.Trial) -> None:
        """The trial ends without a result, counts for nothing and is not tried again."""
        with exclusive(self.out):
            self._not_counted(trial.number)
            self.study.tell(trial, state=TrialState.FAIL)

    def _lock(self, number: int) -> filelock.FileLock:
        return filelock.FileLock(self.out / TRIALS / f"{number:04d}.lock", timeout=0)

    def _retry_the_dead(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            place = trial.user_attrs.get("folder")
            if self.options.storage and place != str(self.folder(trial.number).absolute()):
                continue  # of a process that works in another folder, whose locks are not seen here
            lock = self._lock(trial.number)
            try:
                lock.acquire()
            except filelock.Timeout:
                continue
            attempt = int(trial.user_attrs.get("attempt", 1))
            if attempt < MAX_ATTEMPTS:
                warn(f"trial {trial.number}: its process has died; it is tried again")
                self._retry(trial, attempt + 1)
            else:
                warn(f"trial {trial.number}: {attempt} processes have died of it; it counts as failed")
                self.study.tell(trial.number, state=TrialState.FAIL)
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def _retry(self, trial: FrozenTrial, attempt: int) -> None:
        self._not_counted(trial.number)
        self.study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number, "attempt": attempt})
        self.study.tell(trial.number, state=TrialState.FAIL)
        rmtree(self.folder(trial.number), ignore_errors=True)

    def _retried(self) -> set[int]:
        return set(self.study.user_attrs.get("retried", []))

    def _not_counted(self, number: int) -> None:
        self.study.set_user_attr("retried", sorted(self._retried() | {number}))


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """One process at a time, for moments only."""
    with filelock.FileLock(out / LOCK):
        yield


def open_trials(out: Path, recipe: Recipe, space: Space, options: TuneOptions) -> Trials:
    """The study in `out`, made if it is not there; the caller holds `exclusive`.

    The first trial of a new one is the recipe as it is. Raises InputError for a storage that cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (out / TRIALS).mkdir(exist_ok=True)
    warmup = max(1, recipe.train.epochs // 10)  # epochs in which no trial is ended
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=warmup + 1)
    address = options.storage or f"sqlite:///{(out / DATABASE).absolute()}"
    waiting = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else None
    try:
        study = optuna.create_study(
            storage=optuna.storages.RDBStorage(address, engine_kwargs=waiting),
            study_name=out.absolute().name if options.storage else "tune",
            direction=options.direction,
            pruner=pruner if options.prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
    except Exception as error:  # SQLAlchemy's, a driver's, Optuna's own
        option = "storage" if options.storage else str(out / DATABASE)
        raise InputError(f"{option}: cannot be opened as a database of Optuna ({first_line(error)})") from None
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(_own_values(recipe, space))
    return Trials(study, out, _distributions(recipe, space), options, recipe.train.seed)


def _own_values(recipe: Recipe, space: Space) -> dict[str, Any]:
    """The recipe's own, where they lie in the space."""
    own: dict[str, Any] = {}
    for option, wanted in space.items():
        value = value_of(recipe, option)
        inside = (
            isinstance(value, int | float) and wanted.low <= value <= wanted.high
            if isinstance(wanted, Range)
            else value in wanted
        )
        if inside:
            own[option] = value
    return own


def _distributions(recipe: Recipe, space: Space) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for option, wanted in space.items():
        ends: Any = ends_of(recipe, option, wanted)
        if not isinstance(wanted, Range):
            found[option] = CategoricalDistribution(ends)
        elif is_whole(recipe, option):
            found[option] = IntDistribution(low=ends[0], high=ends[1], log=wanted.log, step=int(wanted.step or 1))
        else:
            found[option] = FloatDistribution(low=ends[0], high=ends[1], log=wanted.log, step=wanted.step)
    return found
