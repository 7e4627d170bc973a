"""The rank report as one HTML file that needs nothing else: styles, scripts, charts and pictures are inside.

Its Content-Security-Policy lets no request out and runs the two scripts named by their hash alone, so that no name of
a class or of a file could do harm even if it were not escaped. plotly is imported when a report is written.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from os import PathLike
from pathlib import Path
from string import Template

from alignrank.drawing import color
from alignrank.errors import InputError
from alignrank.folders import replacing
from alignrank.report.charts import charts
from alignrank.report.content import ReportContent
from alignrank.report.figures import counted, labels_of
from alignrank.report.gain_tables import detection_errors_table, gains_table
from alignrank.report.gallery import misranked_section, only_one_section
from alignrank.report.markup import Html, element, join, script_json
from alignrank.report.plotly_parts import Chart, LegendEntry, Plot
from alignrank.report.tables import classes_table, detector_mark, figures_table, headline_cards, operating_table

# Places in the house colours. Those of the roles keep clear of the detectors', and of each other's lightness.
_DETECTORS = {"first": 0, "second": 1}
_ROLES = {"chosen": 3, "better": 5, "first": 0, "second": 1}
_SURFACES = {"light": "#ffffff", "dark": "#151e2e"}  # as in style.css
_DASHARRAYS = {
    "dash": "7 4",
    "dot": "2 3",
    "dashdot": "7 3 2 3",
    "longdash": "11 4",
    "longdashdot": "11 3 2 3",
}


def write_html(content: ReportContent, path: str | PathLike[str]) -> Path:
    """Write the report to `path`, folders included; a report that was there stays whole until the new one is.

    Raises InputError if `path` is a folder, ValueError unless there are one or two detectors.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of the report's file")
    if len(content.detectors) not in (1, 2):
        raise ValueError(f"content has {len(content.detectors)} detectors, expected one or two")
    # File names may hold bytes that are no UTF-8.
    page = _page(content).encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(page)
    return path


def _page(content: ReportContent) -> str:
    from plotly.offline import get_plotlyjs

    drawn = charts(content.detectors, labels_of(content))
    sections = _sections(content, drawn)
    figures = {_plot_id(chart, i): _figure(plot) for chart in drawn for i, plot in enumerate(chart.plots)}
    plotly, script = _normalized(get_plotlyjs()) if figures else "", _template("script.js")
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (plotly, script) if text)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_template("page.html")).substitute(
        policy=policy,
        title=join(content.title),
        style=_colors() + _template("style.css"),
        header=_header(content),
        navigation=element("ul", [element("li", element("a", name, href=f"#{key}")) for key, name, _ in sections]),
        sections=Html("\n").join(_section(*section) for section in sections),
        plotly=f"<script>{plotly}</script>" if plotly else "",
        figures=script_json(figures),
        script=script,
    )


def _sections(content: ReportContent, drawn: list[Chart]) -> list[tuple[str, str, Html]]:
    """(id, heading, body) of every section that has content."""
    two = len(content.detectors) > 1
    chart_grid = element("div", [_chart(chart, two) for chart in drawn], class_="charts") if drawn else None
    found = [
        ("headlines", "Headline figures", headline_cards(content)),
        ("charts", "Charts", chart_grid),
        ("operating-points", "Operating points", operating_table(content)),
        ("detection-errors", "Detection errors", detection_errors_table(content)),
        ("gains", "Gain by size of object", gains_table(content)),
        ("figures", "All figures", figures_table(content)),
        ("by-class", "Classes", classes_table(content)),
        ("misranked", "Mis-ranked objects", misranked_section(content)),
        ("only-one", "Found by one detector alone", only_one_section(content)),
    ]
    intros = {
        "headlines": _reading(content),
        "by-class": _class_intro(content),
        "operating-points": _operating_intro(),
        "detection-errors": _errors_intro(),
        "gains": _gains_intro(),
    }
    return [(key, name, join([intros.get(key), body])) for key, name, body in found if body]


def _section(key: str, name: str, body: Html) -> Html:
    return element("section", element("h2", name, id=f"{key}-heading"), body, id=key, aria_labelledby=f"{key}-heading")


def _header(content: ReportContent) -> Html:
    labels, two = labels_of(content), len(content.detectors) > 1
    counts = [counted(content.num_images, "image"), counted(content.num_objects, "object")]
    items = [element("li", text) for text in counts]
    for place, (label, number) in enumerate(zip(labels, content.num_detections, strict=False)):
        mark = [detector_mark(place, f"{'AB'[place]}: {label}"), " "] if two else [element("b", label), ": "]
        items.append(element("li", mark, counted(number, "detection")))
    notes = element("ul", [element("li", note) for note in content.notes], class_="notes") if content.notes else None
    return join([element("h1", content.title), element("ul", items, class_="counts"), notes])


def _reading(content: ReportContent) -> Html | None:
    """How differences are to be read; None with one detector."""
    if len(content.detectors) < 2:
        return None
    first, second = labels_of(content)
    return element(
        "p",
        ["Differences are ", element("b", second), " minus ", element("b", first), ", with the 95 % interval of "],
        ["resampling the images. ", element("b", "Better"), " and ", element("b", "worse"), " speak of "],
        [element("b", second), " and are said where the interval excludes 0; else there is no clear difference."],
        class_="reading",
    )


def _class_intro(content: ReportContent) -> Html:
    text = "Press a column's heading to sort by it, again to turn the order round. Threshold: the score of best oLRP."
    if len(content.detectors) < 2:
        return element("p", text)
    marks = [element("span", detector_mark(i, f"{'AB'[i]}: {name}")) for i, name in enumerate(labels_of(content))]
    return join([element("p", text), element("p", marks, class_="legend")])


def _operating_intro() -> Html:
    return element(
        "p",
        "What is right (TP), false (FP) and missed (FN) if only boxes scored at least the threshold are used: at the "
        "threshold chosen, and where F1, the balance of precision and recall, is highest.",
    )


def _errors_intro() -> Html:
    return element(
        "p",
        "The same of both detectors at one score, that of the table in the FINE paper, matched at IoU 0.50 over all "
        "classes together.",
    )


def _gains_intro() -> Html:
    return element("p", "The relative gain is the difference in parts of what the first detector reached.")


def _chart(chart: Chart, two: bool) -> Html:
    heading, caption = f"chart-{chart.key}-heading", f"chart-{chart.key}-caption"
    plots = []
    for i, plot in enumerate(chart.plots):
        name = element("p", detector_mark(i, plot.name), class_="plot-name") if two and plot.name else None
        drawing = element(
            "div",
            class_="plot",
            id=_plot_id(chart, i),
            role="img",
            aria_label=f"{chart.title}, {plot.name}" if plot.name else chart.title,
            aria_describedby=caption,
        )
        plots.append(element("div", name, drawing, class_="panel"))
    return element(
        "figure",
        element("h3", chart.title, id=heading),
        element("div", plots, class_="plots"),
        element("ul", [_legend_item(entry) for entry in chart.legend], class_="legend") if chart.legend else None,
        element("figcaption", chart.caption, id=caption),
        class_="chart wide" if chart.wide else "chart",
        id=f"chart-{chart.key}",
        aria_labelledby=heading,
    )


def _legend_item(entry: LegendEntry) -> Html:
    if entry.filled:
        sample = element("rect", x=5, y=1, width=14, height=10, rx=2, class_=f"fill-{entry.color}")
    else:
        dash = _DASHARRAYS.get(entry.dash)
        sample = element("line", x1=0, x2=24, y1=6, y2=6, stroke_dasharray=dash, class_=f"stroke-{entry.color}")
    svg = element("svg", sample, width=24, height=12, viewBox="0 0 24 12", aria_hidden="true", focusable="false")
    return element("li", svg, element("span", entry.text))


def _plot_id(chart: Chart, place: int) -> str:
    return f"plot-{chart.key}-{place}"


def _figure(plot: Plot) -> dict[str, object]:
    return {"data": plot.data, "layout": plot.layout}


def _template(name: str) -> str:
    return _normalized((resources.files("alignrank.report") / "template" / name).read_text(encoding="utf-8"))


def _normalized(text: str) -> str:
    """Browsers read line ends as \\n before they hash a script."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _colors() -> str:
    """The house colours as CSS custom properties, lighter on dark ground; charts read them from there."""
    dark = {name: _mixed(color(place), "#ffffff", 0.28) for name, place in _DETECTORS.items()}
    light = {name: color(place) for name, place in _DETECTORS.items()}
    roles = "".join(f"--role-{name}:{color(place)};" for name, place in _ROLES.items())
    return (
        f":root{{{roles}{_shades(light, _SURFACES['light'], 0.14)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{_shades(dark, _SURFACES['dark'], 0.3)}}}}}\n"
    )


def _shades(colors: dict[str, str], surface: str, share: float) -> str:
    """Of each colour: itself, a faint one that hides the ground, and a wash that lets it through."""
    return "".join(
        f"--{name}:{value};--{name}-faint:{_mixed(surface, value, share)};--{name}-wash:{value}33;"
        for name, value in colors.items()
    )


def _mixed(one: str, other: str, share: float) -> str:
    """#rrggbb between the two: `share` in 0..1 of the other."""
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
