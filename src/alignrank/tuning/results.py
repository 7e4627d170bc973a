"""What a study leaves: results.json, the best recipe as YAML, and a report with a picture."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from alignrank.folders import replacing
from alignrank.terminal.progress import say
from alignrank.training.options import RunOptions
from alignrank.tuning.report import write_report
from alignrank.tuning.space import with_values
from alignrank.tuning.trials import Trials
from alignrank.weights.catalog import BEST
from alignrank.weights.recipe import Recipe

RESULTS, BEST_RECIPE, BEST_RUN = "results.json", "best.yaml", "best-run.yaml"
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def write_results(trials: Trials, recipe: Recipe, base: Recipe, asked: RunOptions) -> dict[str, Any]:
    """Write all files; what `tune --json` prints. recipe: of the study. base: the same before any option was given."""
    best = trials.best()
    files: dict[str, str] = {}
    if best is not None:
        found = with_values(recipe, best.params, f"trial {best.number}")
        files = {"recipe": str(trials.out / BEST_RECIPE), "config": str(trials.out / BEST_RUN)}
        _write_yaml(
            trials.out / BEST_RECIPE, _whole(found), f"Recipe of trial {best.number}: `train --model` takes it."
        )
        _write_yaml(
            trials.out / BEST_RUN, _run(found, base, asked), f"Run of trial {best.number}: `train --config` takes it."
        )
    rows = [_row(trials, trial) for trial in trials.finished()]
    result = {
        "out": str(trials.out),
        "metric": trials.options.metric,
        "direction": trials.options.direction,
        "counts": dict(Counter(row["state"] for row in rows)),
        "best": None if best is None else _row(trials, best) | files,
        "importance": _importance(trials.study, trials.finished()),
        "trials": rows,
    }
    with replacing(trials.out / RESULTS) as path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_report(result, trials.out)
    return result


def say_results(result: Mapping[str, Any]) -> None:
    """The end of a study: the best trial, and where everything is."""
    counts, out = result["counts"], Path(result["out"])
    say(", ".join(f"{counts[state]} {state}" for state in _STATES.values() if state in counts) or "no trial has ended")
    best = result["best"]
    if best is not None:
        say(f"best {result['metric']} {best['value']:.4f}, of trial {best['number']}")
        for option, value in best["values"].items():
            say(f"  {option}  {value:.4g}" if isinstance(value, float) else f"  {option}  {value}")
        say(f"weights   {best['weights']}")
        say(f"recipe    {best['recipe']}; with its data, {best['config']}")
    say(f"report    {out / 'report.html'}")
    say(f"results   {out / RESULTS}")


def _row(trials: Trials, trial: FrozenTrial) -> dict[str, Any]:
    weights = trials.folder(trial.number) / BEST
    return {
        "number": trial.number,
        "state": _STATES[trial.state],
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "epochs": len(trial.intermediate_values),
        "values": dict(trial.params),
        "error": trial.user_attrs.get("error"),
        "weights": str(weights) if weights.is_file() else None,
    }


def _importance(study: optuna.Study, finished: list[FrozenTrial]) -> dict[str, float]:
    """Option -> its share, most important first; {} where the trials are too few or too alike to say.

    PED-ANOVA (Watanabe et al. 2023), which asks what sets the best tenth apart. Optuna's default needs scikit-learn.
    """
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    if len(complete) < 4:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError):
        return {}


def _whole(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.to_dict().items() if key not in ("name", "num_classes")}


def _run(recipe: Recipe, base: Recipe, asked: RunOptions) -> dict[str, Any]:
    """The options of the run, and what of the recipe differs from that of its model or weights."""
    located = asked.located().model_dump()
    values: dict[str, Any] = {key: located[key] for key in ("data", "val", "model", "weights") if located[key]}
    before = base.to_dict()
    for section, fields in recipe.to_dict().items():
        if isinstance(fields, Mapping):
            changed = {field: value for field, value in fields.items() if value != before[section].get(field)}
            # `data` names the data set, too: its section is written with dots.
            if section in values:
                values |= {f"{section}.{field}": value for field, value in changed.items()}
            elif changed:
                values[section] = changed
    return values


def _write_yaml(path: Path, values: Mapping[str, Any], head: str) -> None:
    with replacing(path) as beside:
        beside.write_text(f"# {head}\n{yaml.safe_dump(dict(values), sort_keys=False)}", encoding="utf-8")
