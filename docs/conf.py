"""The site: Sphinx with Furo, from the Markdown that a code host shows as it is. `make docs` builds it.

Sources lie below the repository's root, so that links between pages, and to README and source files, are resolved as
they are written. Nothing of the site comes from another host.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from alignrank.version import __version__  # noqa: E402

project = "AlignRank"
author = "The AlignRank authors"
version = release = __version__
html_title = f"AlignRank {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext", ".ipynb": "markdown"}
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"]
exclude_patterns = [".*", "build", "dist", "runs", "src", "tests", "shared"]

myst_heading_anchors = 4
myst_enable_extensions: list[str] = []

smartquotes = False  # else two dashes of an option become one

html_theme = "furo"
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # else a site opened from its files asks for pages that a browser refuses it
html_static_path = ["site"]
html_css_files = ["wide-tables.css"]
templates_path = ["site"]
html_additional_pages = {"index": "to-documentation.html"}
pygments_style, pygments_dark_style = "friendly", "monokai"

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
maximum_signature_line_length = 90

LINK = re.compile(r"\]\(((?!https?:|#)[^)\s#]+)")


def navigation(index: str) -> str:
    """A hidden table of contents for each section of the index: the pages it links to, in its order."""
    sections = []
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        caption = section.partition("\n")[0]
        links = dict.fromkeys(link for link in LINK.findall(section) if link.endswith((".md", ".rst", ".ipynb")))
        sections.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *links, "```"]))
    return "\n\n".join(sections)


def folders_as_text(page: str, text: str) -> str:
    """Links to folders of the repository, which a site cannot open, become their names."""

    def named(match: re.Match[str]) -> str:
        return match[1] if ((ROOT / page).parent / match[2]).is_dir() else match[0]

    return re.sub(r"\[([^\]]+)\]\(((?!https?:|#)[^)\s#]+)\)", named, text)


def executed(path: Path) -> list[dict[str, Any]]:
    """Cells of a notebook, run in a folder that is thrown away; raises what a cell raises."""
    import tempfile

    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        kernel = {"resources": {"metadata": {"path": folder}}, "extra_arguments": ["--log-level=40"]}
        NotebookClient(notebook, timeout=300, **kernel).execute()
    return json.loads(nbformat.writes(notebook))["cells"]


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def notebook_page(path: Path) -> str:
    """Markdown of a notebook with what its cells print and give."""
    parts = []
    for cell in executed(path):
        source = joined(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = [
            joined(output.get("text") or output.get("data", {}).get("text/plain", ""))
            for output in cell["outputs"]
            if output.get("name") != "stderr"
        ]
        if any(printed):
            parts.append(f"```text\n{''.join(printed).rstrip()}\n```")
    parts.append(f"The notebook itself: {{download}}`{path.name}`.")
    return "\n\n".join(parts)


def prepare(_app: Any, page: str, source: list[str]) -> None:
    if (ROOT / f"{page}.ipynb").exists():
        source[0] = notebook_page(ROOT / f"{page}.ipynb")
    source[0] = folders_as_text(page, source[0])
    if page == root_doc:
        source[0] += "\n\n" + navigation(source[0])


def plain_docstring(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: indented lines stay as they are, and nothing but backquotes is markup."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
    text = []
    for paragraph in paragraphs:
        if paragraph.startswith((" ", "\t")):
            text += ["::", "", *(f"    {line}" for line in paragraph.splitlines()), ""]
        else:
            text += [*items(paragraph.splitlines()), ""]
    lines[:] = text


def items(lines: list[str]) -> list[str]:
    """A paragraph as reST; lines that begin with `name: ` or a dash are items of a list."""
    begins = re.compile(r"- |[\w*`][\w*`.]*(, [\w*`.]+)*: ")
    if sum(bool(begins.match(line)) for line in lines) < 2:
        return [escaped(line.strip()) for line in lines]
    made: list[str] = []
    for line in lines:
        if begins.match(line):
            made += ["", f"* {escaped(line.removeprefix('- ').strip())}"]
        else:
            made.append(f"{'  ' if made and made[-1].startswith(('* ', '  ')) else ''}{escaped(line.strip())}")
    return made


def escaped(line: str) -> str:
    parts = re.split(r"(`+[^`]+`+)", line)
    return "".join(
        f"``{part.strip('`')}``" if part.startswith("`") and len(part) > 1 else re.sub(r"([\\*_|`])", r"\\\1", part)
        for part in parts
    )


def setup(app: Any) -> None:
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", plain_docstring)
