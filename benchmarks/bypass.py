"""Is a trained part used, or carried along? AP of a trained alignrank with one part after another bypassed.

    python benchmarks/bypass.py                            # runs/ablation/all-seed0, which ablation.py makes
    python benchmarks/bypass.py runs/a runs/b

Offsets to zero: every cell looks at the centre of its box only. Gates to zero: no level gets anything of another one.
Refinement to zero: scores of the one-to-many head. Quality to one: class scores alone. Suppression to zero: duplicates
keep their scores. Validation images of bloodcells, NMS-free output; results in results/bypass.json.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ablation import DATA, ROOT, folder
from paired import commit

from alignrank.data.loader import EvaluationSet, evaluation_loader
from alignrank.data.opening import open_split, opened
from alignrank.detectors.alignrank import AlignRank
from alignrank.detectors.alignrank_quality import FIRST
from alignrank.detectors.postprocess import TopK
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.validate import validate
from alignrank.metrics import compare
from alignrank.nn.bcdm import GatedFusion
from alignrank.weights import checkpoint

RESULTS = ROOT / "benchmarks" / "results" / "bypass.json"
FIGURES = ("ap", "ap50", "ap75", "lrp", "rank.spearman", "rank.misranked", "rank.duplicates_70")
CLOSED = -1e4  # a sigmoid of it is 0


def _zero(*modules: Any) -> None:
    for module in modules:
        if module is not None:
            module.weight.zero_()
            module.bias.zero_()


def offsets(model: AlignRank) -> None:
    """All points at the centre of the box."""
    if model.sampling is not None:
        plans = [model.sampling.plan] if model.sampling.form == "topk" else list(model.sampling.plans)
        _zero(*(plan.offsets for plan in plans))


def gates(model: AlignRank) -> None:
    """Nothing of another level."""
    for module in model.modules():
        if isinstance(module, GatedFusion):
            module.gate_own.weight.zero_()
            module.gate_other.weight.zero_()
            module.gate_bias.fill_(CLOSED)


def fusion(model: AlignRank) -> None:
    """No fused maps are added to the neck's."""
    _zero(*(model.fusion.exit if model.fusion is not None else ()))


def refinement(model: AlignRank) -> None:
    """Nothing is added to scores."""
    if model.refinement is not None:
        _zero(model.refinement.logits)


def quality(model: AlignRank) -> None:
    """The second factor is 1."""
    if model.quality is not None:
        model.quality.output.weight.zero_()
        model.quality.output.bias.fill_(FIRST)


def suppression(model: AlignRank) -> None:
    """Duplicates keep their scores."""
    if model.suppression is not None:
        model.suppression.strength.zero_()


def sampled(model: AlignRank) -> None:
    """Nothing of the sampled points."""
    if model.sampling is not None and model.sampling.form == "topk":
        _zero(model.sampling.output)


BYPASSES: dict[str, Callable[[AlignRank], None]] = {
    "as trained": lambda model: None,
    "offsets to zero": offsets,
    "gates to zero": gates,
    "fusion to zero": fusion,
    "refinement to zero": refinement,
    "quality to one": quality,
    "suppression to zero": suppression,
    "sampled features to zero": sampled,
}


def measure(run: Path) -> dict[str, Any]:
    """Figures of each bypass, and its difference to the model as trained, with intervals over images."""
    loaded = checkpoint.load(run)
    split = open_split(str(DATA), "val")
    images = opened(split, loaded.recipe.size_in_use)
    rows: dict[str, Any] = {}
    trained = None
    for name, bypass in BYPASSES.items():
        model = loaded.build_model()
        with torch.no_grad():
            bypass(model)
        if trained is not None and all(torch.equal(loaded.weights[k], v) for k, v in model.state_dict().items()):
            continue  # the run does not have that part
        loader = evaluation_loader(EvaluationSet(images), 16, workers=0)
        diagnosis = validate(model, TopK(), loader, split, ValOptions(before_nms=False)).diagnosis
        scalars = diagnosis.metrics.scalars()
        rows[name] = {figure: scalars[figure] for figure in FIGURES}
        if trained is None:
            trained = diagnosis
            continue
        intervals = compare(trained, diagnosis).figures
        rows[name]["difference"] = {figure: intervals[figure].to_dict() for figure in FIGURES}
        shown = intervals["ap"]
        print(f"{run} {name}: AP {scalars['ap']:.4f} ({shown.difference:+.4f}, {shown.low:+.4f} to {shown.high:+.4f})")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, default=[folder("all", 0)])
    arguments = parser.parse_args()
    names = " ".join(os.path.relpath(run, ROOT) for run in arguments.runs)
    result = {"command": f"python benchmarks/bypass.py {names}", "commit": commit(), "device": "cpu"}
    RESULTS.write_text(json.dumps(result | {"runs": {r.name: measure(r) for r in arguments.runs}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
