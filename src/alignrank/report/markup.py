"""HTML that is escaped by construction: text becomes markup only through `element`."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

import numpy as np


class Html(str):
    """Markup that is ready; any other string is text, and is escaped where it meets markup."""

    __slots__ = ()


Child = str | Iterable["Child"] | None

_VOID = {"img", "br", "col", "line", "rect"}


def element(name: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """`<name attributes>children</name>`; children: text, `Html`, None or sequences of these.

    In attributes, `class_` gives class and `data_key` data-key; True stands alone; None and False are left out.
    """
    text = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{text}>" if name in ("img", "br", "col") else f"<{name}{text}/>")
    return Html(f"<{name}{text}>{join(children)}</{name}>")


def join(children: Child) -> Html:
    """Children one after another, text escaped."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str):
        return Html(html.escape(children))
    return Html("".join(map(join, children)))


def script_json(value: Any) -> Html:
    """JSON that can stand inside `<script>`, whatever its texts hold; numpy is allowed, NaN becomes null."""
    text = json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(text)


def _plain(value: Any) -> Any:
    """Numbers at four significant digits, which no chart can tell from more, and which keep the file small."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        rounded = float(f"{value:.4g}")
        if not np.isfinite(rounded):
            return None
        return int(rounded) if rounded == int(rounded) else rounded
    return value
