"""A study from options to the best recipe: trainings one after another, beside those of other processes."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

from alignrank.arguments import place
from alignrank.errors import InputError, TrainingError, first_line
from alignrank.folders import check_place, is_free, make_folder, replacing
from alignrank.report.figures import value_of
from alignrank.terminal.progress import say, shown, warn
from alignrank.terminal.works import Work
from alignrank.training import run
from alignrank.training.best import FIGURES
from alignrank.training.options import RunOptions, read_options
from alignrank.tuning.options import TuneOptions
from alignrank.tuning.space import Range, Space, space_of, with_values
from alignrank.weights.recipe import Recipe

STUDY_FILE = "study.json"
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)
# What each process of a study chooses for itself.
_OWN = ("out", "workers", "device")


def tune(data: str | Path, *, caller: str = "tune", **options: Any) -> dict[str, Any]:
    """Search the options of a recipe on a data set; what `tune --json` prints (see `results`, docs/tuning.md).

    options: those of `TuneOptions`; those of a training: model, val, weights, epochs, batch, imgsz, lr, seed, workers,
    device, out; and `section.field` of the recipe, which hold for every trial. A folder `out` (default
    runs/tune-RECIPE) that has the same study goes on with it, beside other processes or after them.
    Raises InputError for what cannot be used, also where `out` has another study. KeyboardInterrupt says how to go on.
    """
    paths = {key: str(value) for key, value in options.items() if isinstance(value, os.PathLike)}
    given = {key: value for key, value in (options | paths).items() if value is not None} | {"data": str(data)}
    tuning = TuneOptions.parse({key: given[key] for key in TuneOptions.model_fields if key in given}, where=caller)
    fixed = {key: value for key, value in given.items() if "." in key}
    given = {key: value for key, value in given.items() if key not in fixed and key not in TuneOptions.model_fields}
    if "devices" in given:
        raise InputError(f"{caller}: devices: a trial is one process; start the same command several times instead")
    asked, recipe = read_options(None, given, fixed, caller=caller)
    space = space_of(recipe, None if tuning.space is None else Path(tuning.space))
    shared: dict[str, Any] = {key: given[key] for key in ("data", "model", "val", "weights") if key in given}
    base = read_options(None, shared, {}, caller=caller)[1]
    out = place("out", asked.out or f"runs/tune-{recipe.name.replace('/', '-')}")
    return Study(out, asked, recipe, space, tuning).run(base)


class Study:
    """One process's part of a study."""

    def __init__(self, out: Path, asked: RunOptions, recipe: Recipe, space: Space, options: TuneOptions) -> None:
        self.out, self.asked, self.recipe, self.space, self.options = out, asked, recipe, space, options

    def run(self, base: Recipe) -> dict[str, Any]:
        """Trials until there are as many as asked for; then the report. base: the recipe before any option."""
        from alignrank.tuning.results import say_results, write_results
        from alignrank.tuning.trials import DATABASE, TRIALS, exclusive, open_trials

        new = self._begin()
        trials: Any = None
        try:
            with exclusive(self.out):
                self._check_same()
                trials = open_trials(self.out, self.recipe, self.space, self.options)
            say(f"study of {', '.join(self.space)}; writing to {self.out}")
            with self._interruptible(), shown(Work("trials", self.options.trials)) as work:
                while self._trial(trials):
                    work.done = len(trials.finished())
                    work.changed(work)
        except InputError:
            # Nothing is left of a study that could not begin, unless another process has joined.
            if new:
                with exclusive(self.out):
                    mine = trials is not None and not (trials.finished() or trials.num_counted())
                    if mine or not (self.out / DATABASE).exists():
                        for name in (DATABASE, STUDY_FILE):
                            (self.out / name).unlink(missing_ok=True)
                        rmtree(self.out / TRIALS, ignore_errors=True)
                self._remove_if_empty()
            raise
        with exclusive(self.out):
            result = write_results(trials, self.recipe, base, self.asked)
        say_results(result)
        return result

    def _begin(self) -> bool:
        """Whether the study is new. Raises InputError where the folder is something else's."""
        check_place(self.out, "out")
        known = (self.out / STUDY_FILE).is_file()
        if not known and not is_free(self.out) and {path.name for path in self.out.iterdir()} - {"study.lock"}:
            raise InputError(f"out: {self.out} already exists and has no study; choose another folder")
        make_folder(self.out, "out")
        return not known

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            (self.out / "study.lock").unlink(missing_ok=True)
            self.out.rmdir()

    def _about(self) -> dict[str, Any]:
        options = {key: value for key, value in self.asked.located().model_dump().items() if key not in _OWN}
        tuning = self.options.model_dump(include={"metric", "prune", "storage"})
        space = {
            option: wanted.model_dump() if isinstance(wanted, Range) else list(wanted)
            for option, wanted in self.space.items()
        }
        return {"options": options, "tuning": tuning, "space": space, "recipe": self.recipe.to_dict()}

    def _check_same(self) -> None:
        """Raises InputError where the folder has a study of other options; writes those of a new one."""
        file, about = self.out / STUDY_FILE, json.loads(json.dumps(self._about()))
        if not file.is_file():
            with replacing(file) as path:
                path.write_text(json.dumps(about, indent=1), encoding="utf-8")
            return
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            different = [
                f"{part}.{key}" if part != "options" else key
                for part, values in about.items()
                for key in sorted({*values, *before[part]})
                if values.get(key) != before[part].get(key)
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: is damaged ({first_line(error)}); start a new study") from None
        if different:
            raise InputError(
                f"out: {self.out} has a study with another {different[0]}; choose another folder, or give the same "
                "options to go on with it"
            )

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        goes_on = f"the same command goes on with the study in {self.out}, and tries the trial again"
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; {goes_on}") from None
        except SystemExit:  # SIGTERM, by way of the training
            say(f"terminated; {goes_on}")
            raise

    def _trial(self, trials: Any) -> bool:
        """One trial; False where none is left to do."""
        from optuna.trial import TrialState

        with trials.next() as trial:
            if trial is None:
                return False
            values = dict(trial.params)
            say(f"trial {trial.number}: {in_words(values)}")
            folder = trials.folder(trial.number)
            pruner = Pruner(trial, self.options.metric, self.options.prune)
            options = self.asked.model_copy(update={"out": str(folder)})
            try:
                recipe = with_values(self.recipe, values, f"trial {trial.number}")
                result = run.train(options, recipe, callbacks=[pruner], is_trial=True)
            except InputError:
                trials.give_up(trial)
                raise
            except (TrainingError, MemoryError, RuntimeError) as error:
                self._fail(trials, trial, error)
                return True
            value = value_of(result["metrics"], self.options.metric)
            if pruner.pruned:
                trials.study.tell(trial, state=TrialState.PRUNED)
                say(f"trial {trial.number}: ended early, {pruner.pruned}")
            elif value is None:
                trial.set_user_attr("error", f"{self.options.metric} is undefined on the validation split")
                trials.study.tell(trial, state=TrialState.FAIL)
                warn(f"trial {trial.number}: failed, {self.options.metric} is undefined on the validation split")
            else:
                trials.study.tell(trial, value)
                best = trials.best()
                say(
                    f"trial {trial.number}: {self.options.metric} {value:.4f}; "
                    f"best {best.value:.4f}, of trial {best.number}"
                )
        return True

    def _fail(self, trials: Any, trial: Any, error: Exception) -> None:
        """Of what another choice may do better, the study says so and goes on; other errors are raised."""
        from optuna.trial import TrialState

        memory = isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)) is not None
        if not isinstance(error, TrainingError) and not memory:
            raise error
        reason = "out of memory" if memory else first_line(error)
        trial.set_user_attr("error", reason)
        trials.study.tell(trial, state=TrialState.FAIL)
        warn(f"trial {trial.number}: failed ({reason}); the study goes on")


class Pruner:
    """Tells Optuna each epoch's figure, and ends the training that is below the median (see `EpochCallback`)."""

    def __init__(self, trial: Any, metric: str, prune: bool) -> None:
        name = metric.removeprefix("rank.")
        self._trial, self._key = trial, f"val/{name}" if name in FIGURES else None
        self._prune = prune
        self.pruned: str | None = None

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> str | None:
        value = metrics.get(self._key) if self._key is not None else None
        if value is None or not math.isfinite(value):
            return None
        self._trial.report(value, step=epoch)
        if self._prune and self._trial.should_prune():
            self.pruned = f"worse than the median of the trials at epoch {epoch}"
        return self.pruned


def in_words(values: Mapping[str, Any]) -> str:
    """`train.lr=0.0012, loss.box=7.5`."""
    return ", ".join(f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in values.items())
