"""The report of a study: history and importance in a picture, and a page with the table of trials."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from alignrank.folders import replacing
from alignrank.report.markup import Html, element
from alignrank.report.plot_parts import new_figure, saved, styled

PICTURE, PAGE = "tuning.png", "report.html"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
.best { font-weight: 600; }
"""


def write_report(result: Mapping[str, Any], out: Path) -> None:
    """tuning.png and report.html, one file that needs no other. result: of `results.write_results`."""
    picture = _draw(result, out / PICTURE)
    with replacing(out / PAGE) as path:
        path.write_text(f"<!doctype html>\n{_page(result, picture.read_bytes())}", encoding="utf-8")


def _draw(result: Mapping[str, Any], path: Path) -> Path:
    figure, (history, importance) = new_figure(2, 2, width=6, height=4)
    complete = [row for row in result["trials"] if row["value"] is not None]
    better = max if result["direction"] == "maximize" else min
    numbers, values = [row["number"] for row in complete], [row["value"] for row in complete]
    history.scatter(numbers, values, s=18, color="#2563eb", label="trial")
    history.step(numbers, list(accumulate(values, better)), where="post", color="#ea580c", label="best so far")
    for state, mark in (("pruned", "|"), ("failed", "x")):
        of_state = [row["number"] for row in result["trials"] if row["state"] == state]
        if of_state:
            low = min(values, default=0.0)
            history.scatter(of_state, [low] * len(of_state), marker=mark, color="#64748b", label=state)
    styled(history, "History", "trial", result["metric"])
    history.xaxis.get_major_locator().set_params(integer=True)
    history.legend(frameon=False, fontsize=8)
    shares = dict(reversed(result["importance"].items()))
    importance.barh(list(shares), list(shares.values()), color="#2563eb")
    styled(importance, "Importance", "share", "")
    if not shares:
        importance.text(0.5, 0.5, "too few complete trials", ha="center", transform=importance.transAxes)
        importance.set(xticks=[], yticks=[], xlabel="")
    return saved(figure, path)


def _page(result: Mapping[str, Any], picture: bytes) -> Html:
    best = result["best"]
    counts = ", ".join(f"{count} {state}" for state, count in result["counts"].items()) or "no trial has ended"
    headline = (
        "No trial was trained to its end."
        if best is None
        else f"Best {result['metric']} {best['value']:.4f}, of trial {best['number']}."
    )
    options = list(dict.fromkeys(option for row in result["trials"] for option in row["values"]))
    head = element("tr", *(element("th", name) for name in ("trial", "state", result["metric"], "epochs", *options)))
    rows = [_table_row(row, options, best is not None and row["number"] == best["number"]) for row in result["trials"]]
    image = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    failed = [element("li", f"trial {row['number']}: {row['error']}") for row in result["trials"] if row["error"]]
    title = f"Tuning in {Path(result['out']).name}"
    return element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Html(_STYLE)),
        ),
        element(
            "body",
            element("h1", title),
            element("p", f"{headline} {counts[0].upper()}{counts[1:]}."),
            element("img", src=image, alt="Figure by trial, and importance of each option"),
            element("h2", "Trials"),
            element("div", element("table", head, rows), class_="wide"),
            [element("h2", "Failed"), element("ul", failed)] if failed else None,
        ),
        lang="en",
    )


def _table_row(row: Mapping[str, Any], options: list[str], best: bool) -> Html:
    cells = [row["number"], row["state"], row["value"], row["epochs"], *(row["values"].get(key) for key in options)]
    return element("tr", *(element("td", _shown(cell)) for cell in cells), class_="best" if best else None)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
