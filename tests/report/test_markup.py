"""Markup by hand: attributes, children, and JSON that can stand in a page."""

from __future__ import annotations

import numpy as np
import pytest

from alignrank.report.markup import Html, element, join, script_json


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (element("p", "a < b", class_="x"), '<p class="x">a &lt; b</p>'),
        (element("p", hidden=True, data_key=None, scope=False), "<p hidden></p>"),  # None and False are left out
        (element("p", x=0, y="", title='"'), '<p x="0" y="" title="&quot;"></p>'),  # 0 and "" are values
        (element("img", alt="b"), '<img alt="b">'),
        (element("rect", x=1), '<rect x="1"/>'),
        (element("p", None, ["a", Html("<b>")], [["&"]]), "<p>a<b>&amp;</p>"),
    ],
)
def test_elements(made: Html, expected: str) -> None:
    assert made == expected
    assert join(made) == expected  # ready: not escaped again


def test_json_in_a_page() -> None:
    """Four significant digits, whole numbers without a point, undefined ones as null, nothing that ends the script."""
    values = {
        1: np.array([[0.123456, 2.0], [np.nan, -np.inf]]),
        "n": np.int64(7),
        "t": ("</script>&\u2028", True, None),
    }
    assert script_json(values) == (
        '{"1":[[0.1235,2],[null,null]],"n":7,"t":["\\u003c/script\\u003e\\u0026\\u2028",true,null]}'
    )
