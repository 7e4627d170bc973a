"""The two pages, each one file that asks for nothing else: to try the detector, and the API in words.

Their Content-Security-Policy lets no request out but to this server, and runs the one script named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

from alignrank.drawing import color
from alignrank.inference.predict import Pipeline
from alignrank.report.markup import Html, element, join, script_json

# The lowest score that the page asks for; what is above is chosen in the page.
FLOOR = 0.05
# Of class colours in the page; a network of more classes has them again.
_MAX_COLORS = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML document and its Content-Security-Policy."""

    text: str
    policy: str


def main_page(pipeline: Pipeline) -> Page:
    """Drop a picture, see its boxes."""
    detector, conf = pipeline.detector, pipeline.limits.conf
    settings = {
        "colors": [color(label) for label in range(min(len(detector.classes), _MAX_COLORS))],
        "conf": max(conf, FLOOR),
        "floor": FLOOR,
    }
    count = len(detector.classes)
    about = f"{detector.recipe}, {count} class{'es' * (count != 1)}"
    script = _part("script.js")
    text = Template(_part("page.html")).substitute(
        style=_part("style.css"), about=join(about), settings=script_json(settings), script=script
    )
    return Page(text, _policy(script))


def api_page(described: dict[str, Any]) -> Page:
    """What OpenAPI's description of the server says, for people."""
    sections = [
        _operation(method, path, operation)
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    ]
    text = Template(_part("api.html")).substitute(
        style=_part("style.css"), title=join(described["info"]["title"]), sections=join(sections)
    )
    return Page(text, _policy(None))


def _operation(method: str, path: str, operation: dict[str, Any]) -> Html:
    parameters = [
        element(
            "tr",
            element("th", element("code", parameter["name"]), scope="row"),
            element("td", parameter.get("description") or parameter["schema"].get("description") or ""),
        )
        for parameter in operation.get("parameters", [])
    ]
    answers = [
        element("tr", element("th", element("code", status), scope="row"), element("td", answer["description"]))
        for status, answer in sorted(operation["responses"].items())
    ]
    kinds = operation.get("requestBody", {}).get("content", {})
    bodies = Html(", or ".join(element("code", kind) for kind in kinds))
    return element(
        "section",
        element("h2", element("span", method.upper(), class_="method"), " ", element("code", path)),
        element("p", operation.get("description", "")),
        element("p", "Body: ", bodies) if kinds else None,
        _table("Query", parameters),
        _table("Answers", answers),
        class_="operation",
    )


def _table(name: str, rows: list[Html]) -> Html | None:
    if not rows:
        return None
    return element("div", element("table", element("caption", name), element("tbody", rows)), class_="scroll")


def _part(name: str) -> str:
    """Browsers read line ends as \\n before they hash a script."""
    text = (resources.files("alignrank.serve") / "template" / name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _policy(script: str | None) -> str:
    runs = (
        "'none'"
        if script is None
        else f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    )
    return (
        f"default-src 'none'; script-src {runs}; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
