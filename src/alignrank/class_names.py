"""Classes as people name them: by name or number, one or several, with commas between them and in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from alignrank.errors import InputError, nearest


def class_labels(classes: Any, names: Sequence[str]) -> list[int]:
    """Labels of classes given by name or label, one or several, see `listed`.

    Raises InputError for one that is not among `names`, and for none.
    """
    labels = {name: label for label, name in reversed(list(enumerate(names)))}
    found = []
    for text in listed(classes, names):
        if text in labels:
            found.append(labels[text])
        elif text.isdecimal() and int(text) < len(names):
            found.append(int(text))
        else:
            raise InputError(f"classes: unknown class {text!r}; {nearest(text, names)}; or 0 to {len(names) - 1}")
    if not found:
        raise InputError(f"classes: none given; {nearest('', names)}")
    return found


def listed(classes: Any, known: Iterable[str]) -> list[str]:
    """What was given, one text for each class: `"cat"`, `3`, `["cat", 3]`, `"cat,dog"`.

    Commas separate, but not within a text that is a name of its own: the longest name counts.
    """
    known = set(known)
    if hasattr(classes, "tolist"):  # an array or a tensor
        classes = classes.tolist()
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        classes = [classes]
    plain = (item.item() if hasattr(item, "item") else item for item in classes)
    return [part for item in plain for part in _parts(str(item), known)]


def _parts(text: str, known: set[str]) -> list[str]:
    if text in known:
        return [text]
    pieces, parts, start = text.split(","), [], 0
    while start < len(pieces):
        spans = [(end, ",".join(pieces[start:end])) for end in range(len(pieces), start, -1)]
        named = ((end, name) for end, span in spans for name in (span, span.strip()) if name in known)
        start, name = next(named, (start + 1, pieces[start].strip()))
        parts += [name] if name else []
    return parts


def distinct_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of a detector's classes as somebody gives them. Raises InputError unless they are different names."""
    names = () if isinstance(classes, str) else tuple(classes)
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"classes: must be a list of names, got {classes!r}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"classes: {twice!r} is given twice")
    return names
