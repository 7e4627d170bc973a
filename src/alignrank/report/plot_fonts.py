"""Fonts of a matplotlib figure whose text holds class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignrank.fonts import fonts


def use_fonts(figure: Any, names: Sequence[str]) -> None:
    """Let the text of `figure` fall back to the installed fonts that `names` need, if they need any."""
    paths = fonts().paths_for(names)
    if not paths:
        return
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, fontManager
    from matplotlib.text import Text

    known = {font.fname for font in fontManager.ttflist}
    for path in paths:
        if path not in known:
            fontManager.addfont(path)
    families = [*rcParams["font.family"], *(FontProperties(fname=path).get_name() for path in paths)]
    for text in figure.findobj(Text):
        if text.get_fontweight() in ("normal", 400):  # titles hold no names, and few fonts have a bold face
            text.set_fontfamily(families)
