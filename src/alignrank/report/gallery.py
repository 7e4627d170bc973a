"""Cards of image pieces with boxes on them: mis-ranked objects, and boxes that only one of two detectors has."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from alignrank.report.content import Crop, DrawnBox, MisrankedObject, OnlyOne, ReportContent
from alignrank.report.figures import counted, labels_of, plain_number, written
from alignrank.report.markup import Html, element, join
from alignrank.report.tables import detector_mark

# Where a box's tag stands, so that the tags of boxes that nearly coincide do not: (right end?, below?)
_TAG_CORNER = {"object": (True, False), "better": (False, True), "first": (False, False), "second": (False, False)}
_ROLE_NAMES = {"object": "object", "chosen": "chosen: best score", "better": "better: fits best, but scored lower"}


def misranked_section(content: ReportContent) -> Html | None:
    """The browser of mis-ranked objects; None where there is none."""
    labels = labels_of(content)
    cards, groups = [], []
    seen: set[str] = set()
    for place, detector in enumerate(content.detectors):
        objects = [] if detector.name in seen else content.misranked.get(detector.name, ())
        seen.add(detector.name)
        objects = sorted(objects, key=lambda o: -o.iou_lost)
        cards += [_misranked_card(item, place) for item in objects]
        if objects:
            number = max(len(objects), int(content.num_misranked.get(detector.name, len(objects))))
            groups.append((place, len(objects), number))
    if not cards:
        return None
    extent = [
        element(
            "p",
            [detector_mark(place, labels[place]), ": "] if len(labels) > 1 else None,
            f"{number:,} of {counted(whole, 'mis-ranked object')} shown, the worst first.",
            data_shown=number,
            data_total=whole,
        )
        for place, number, whole in groups
    ]
    classes = [item.crop.class_name for objects in content.misranked.values() for item in objects]
    controls = [_class_select("misranked", classes)]
    if len(groups) > 1:
        controls.insert(0, _detector_select("misranked", [(place, labels[place]) for place, _, _ in groups]))
    intro = element(
        "p",
        "Objects whose best-scored box fits worse than another box that was found for them. "
        "IoU lost is what the wrong order costs on that object.",
    )
    return join(
        [
            intro,
            extent,
            _legend(("object", "chosen", "better"), _ROLE_NAMES),
            _controls("misranked", controls),
            element("ul", cards, class_="cards"),
            element("button", "Show more", type="button", class_="more", hidden=True),
        ]
    )


def only_one_section(content: ReportContent) -> Html | None:
    """Boxes of one detector alone, by detector and by whether they are true; None where there is none."""
    if not content.only_one or len(content.detectors) < 2:
        return None
    labels = labels_of(content)
    number = max(len(content.only_one), int(content.num_only_one))
    parts = [
        element(
            "p",
            "Objects that one detector alone finds, and false boxes where the other has none, with the scores that are "
            "worth showing: at least the threshold of best oLRP of the class. "
            f"{len(content.only_one):,} of {number:,} are shown.",
            data_shown=len(content.only_one),
            data_total=number,
        ),
        _legend(
            ("object", "first", "second"),
            {"object": "object", "first": f"only {labels[0]}", "second": f"only {labels[1]}"},
        ),
        _controls("only-one", [_class_select("only-one", [item.crop.class_name for item in content.only_one])]),
    ]
    for correct, title in ((True, "true boxes"), (False, "false boxes")):
        for place, by in enumerate(("first", "second")):
            items = [item for item in content.only_one if item.by == by and bool(item.correct) == correct]
            if items:
                heading = element("h3", f"Only {labels[place]}: {title} (", element("span", str(len(items))), ")")
                cards = element("ul", [_only_one_card(item, place) for item in items], class_="cards")
                parts.append(element("div", heading, cards, class_="group", data_by=by, data_correct=_yes(correct)))
    return join(parts)


def _yes(value: bool) -> str:
    return "true" if value else "false"


def _misranked_card(item: MisrankedObject, place: int) -> Html:
    rows = [
        ("chosen", "chosen", item.chosen_score, item.chosen_iou),
        ("better", "better", item.better_score, item.better_iou),
    ]
    lost = element("span", f"IoU lost {written(item.iou_lost)}", class_="lost")
    return element(
        "li",
        _picture(item.crop),
        element("div", _heading(item.crop, lost), _score_table(rows), class_="about"),
        class_="card",
        data_class=item.crop.class_name,
        data_detector=place,
        data_lost=f"{item.iou_lost:.6f}",
    )


def _only_one_card(item: OnlyOne, place: int) -> Html:
    word = element("span", "true" if item.correct else "false", class_=f"badge {'better' if item.correct else 'worse'}")
    about = element(
        "div", _heading(item.crop, word), _score_table([(item.by, "box", item.score, item.iou)]), class_="about"
    )
    return element(
        "li",
        _picture(item.crop),
        about,
        class_="card",
        data_class=item.crop.class_name,
        data_detector=place,
        data_correct=_yes(item.correct),
    )


def _heading(crop: Crop, mark: Html) -> Html:
    title = element("p", element("b", crop.class_name), mark, class_="card-title")
    return join([title, element("p", crop.image, class_="file", title=crop.image)])


def _score_table(rows: Sequence[tuple[str, str, float, float]]) -> Html:
    head = element("tr", element("td"), element("th", "score", scope="col"), element("th", "IoU", scope="col"))
    body = [
        element(
            "tr",
            element("th", element("span", class_=f"swatch role-{role}", aria_hidden="true"), name, scope="row"),
            element("td", written(score)),
            element("td", written(iou)),
        )
        for role, name, score, iou in rows
    ]
    return element("table", element("thead", head), element("tbody", body))


def _picture(crop: Crop) -> Html:
    """The JPEG, and over it the boxes as SVG in the crop's own pixels."""
    data = base64.b64encode(crop.jpeg).decode("ascii")
    roles = ", ".join(dict.fromkeys(box.role for box in crop.boxes)) or "no boxes"
    image = element(
        "img",
        src=f"data:image/jpeg;base64,{data}",
        width=crop.width,
        height=crop.height,
        decoding="async",
        alt=f"{crop.class_name} in {crop.image}, boxes drawn: {roles}",
    )
    boxes = [_box(box, crop) for box in crop.boxes] + [_tag(box, crop) for box in crop.boxes if box.text]
    overlay = element("svg", boxes, viewBox=f"0 0 {crop.width} {crop.height}", aria_hidden="true", focusable="false")
    return element("div", image, overlay, class_="crop")


def _box(box: DrawnBox, crop: Crop) -> Html:
    """A dark line below the coloured one keeps it visible on any picture."""
    left, top, right, bottom = _inside(box, crop)
    place = {"x": f"{left:.4g}", "y": f"{top:.4g}", "width": f"{right - left:.4g}", "height": f"{bottom - top:.4g}"}
    return join([element("rect", class_="halo", **place), element("rect", class_=f"box role-{box.role}", **place)])


def _inside(box: DrawnBox, crop: Crop) -> tuple[float, float, float, float]:
    """The box cut to the crop; what is undefined becomes the crop's edge."""
    left, top, right, bottom = (plain_number(side) for side in box.box)
    left, top = min(max(left or 0, 0), crop.width), min(max(top or 0, 0), crop.height)
    right = min(max(crop.width if right is None else right, left), crop.width)
    bottom = min(max(crop.height if bottom is None else bottom, top), crop.height)
    return left, top, right, bottom


def _tag(box: DrawnBox, crop: Crop) -> Html:
    size = max(crop.width, crop.height) / 17
    left, top, right, bottom = _inside(box, crop)
    at_right, below = _TAG_CORNER.get(box.role, (False, False))
    if below:
        y = bottom + size if bottom + 1.2 * size <= crop.height else bottom - 0.35 * size
    else:
        y = top - 0.3 * size if top >= 1.2 * size else top + size
    x = right - 0.15 * size if at_right else left + 0.15 * size
    return element(
        "text",
        box.text,
        x=f"{x:.4g}",
        y=f"{y:.4g}",
        font_size=f"{size:.4g}",
        text_anchor="end" if at_right else None,
        class_=f"tag role-{box.role}",
    )


def _legend(roles: Iterable[str], names: dict[str, str]) -> Html:
    items = [
        element("li", element("span", class_=f"swatch role-{role}", aria_hidden="true"), names[role]) for role in roles
    ]
    return element("ul", items, class_="legend roles", aria_label="Colours of the boxes")


def _class_select(section: str, classes: Sequence[str]) -> Html:
    names = sorted(set(classes), key=lambda name: (name.casefold(), name))
    options = [element("option", f"{name} ({classes.count(name)})", value=name, data_name=name) for name in names]
    every = element("option", f"All classes ({len(classes)})", data_name="All classes", data_all=True, value="")
    select = element("select", every, options, id=f"{section}-class", data_filter="class")
    return element("label", element("span", "Class"), select)


def _detector_select(section: str, labels: Sequence[tuple[int, str]]) -> Html:
    options = [element("option", name, value=str(place)) for place, name in labels]
    select = element("select", options, id=f"{section}-detector", data_filter="detector")
    return element("label", element("span", "Detector"), select)


def _controls(section: str, controls: Sequence[Html]) -> Html:
    """The filters and, kept up to date by the script, how many cards they leave."""
    count = element("output", id=f"{section}-count", class_="count", aria_live="polite")
    return element("div", controls, count, class_="controls", hidden=True)
