"""XML files of data sets: parsed without document types and entities, which could name files or fill the memory."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from alignrank.errors import InputError
from alignrank.files import read_bytes


def xml_root(path: Path, tag: str) -> Element:
    """The outermost element, which must be `tag`. Raises InputError naming the file."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    content = read_bytes(path)
    try:
        root = parse(io.BytesIO(content), forbid_dtd=True)
    except DefusedXmlException:
        raise InputError(f"{path}: declares a document type or entities; these are never expanded") from None
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{path}: is not valid XML ({str(error)[:120]})") from None
    element: Element | None = root.getroot()
    assert element is not None  # it was parsed
    if element.tag != tag:
        raise InputError(f"{path}: the outermost element must be {tag}, is {element.tag[:80]!r}")
    return element
