"""Which tests are near to a source file, for `mutation.py`."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter, defaultdict
from pathlib import Path

from paired import ROOT

TESTS = ROOT / "tests"
# So many test files are near.
NEAREST = 6
END_TO_END = ("test_verbs.py", "detectors/test_contracts.py", "test_fixtures.py", "test_bad_inputs.py", "training")
READ_THE_CHECKOUT = ("test_layering.py",)
IMPORT = re.compile(r"from (alignrank[\w.]*) import (\([^)]*\)|[^\n]*)")


@functools.cache
def read(text: str) -> tuple[Counter[str], dict[str, set[str]], Counter[str]]:
    """How often a text has each dotted name of ours; the names it imports by package; how often it has each word."""
    imported: defaultdict[str, set[str]] = defaultdict(set)
    for package, names in IMPORT.findall(text):
        imported[package] |= set(re.findall(r"\w+", names))
    dotted = Counter(re.findall(r"\balignrank(?:\.\w+)+", text))
    for name in dotted:
        imported[name.rpartition(".")[0]].add(name.rpartition(".")[2])
    return dotted, imported, Counter(re.findall(r"\w+", text))


class Neighbours:
    """Which test files are near to a source file, and which are in the wider circle; all as texts by path."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        texts = {p.relative_to(TESTS).as_posix(): p.read_text(encoding="utf-8") for p in sorted(TESTS.rglob("*.py"))}
        self.tests = {file: text for file, text in texts.items() if Path(file).name.startswith("test_")}
        self.tests = {file: text for file, text in self.tests.items() if file not in READ_THE_CHECKOUT}
        for file, text in self.tests.items():
            helpers = (name for name in texts if re.search(rf"^(from|import) {Path(name).stem}\b", text, re.MULTILINE))
            self.tests[file] = "\n".join([text, *(texts[name] for name in helpers)])

    def mentions(self, file: str, text: str) -> int:
        """How often `text` names the module, or what it defines and `text` imports from a package above it."""
        module, names = self.defined(file)
        dotted, imported, words = read(text)
        below = "" if file.endswith("__init__.py") else module + "."
        count = sum(n for name, n in dotted.items() if name == module or (below and name.startswith(below)))
        near = (package for package in imported if module == package or module.startswith(package + "."))
        return count + sum(words[name] for package in near for name in names & imported[package])

    @functools.cache  # noqa: B019 - one object, for the whole run
    def defined(self, file: str) -> tuple[str, set[str]]:
        """The module's name, and the names that it defines; its own last part too."""
        body = ast.parse(self.files[file]).body
        names = {n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)} | {Path(file).stem}
        names |= {t.id for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
        return ".".join(["alignrank", *Path(file).with_suffix("").parts]).removesuffix(".__init__"), names

    def direct(self, file: str) -> list[str]:
        """The mirrored one first, then those of the same room, of its name, then by how often they mention the file."""
        path = Path(file)
        mirrored = (path.parent / f"test_{path.name}").as_posix()
        counts = {test: self.mentions(file, text) for test, text in self.tests.items()}
        direct = [test for test in self.tests if counts[test] or test == mirrored]
        named = {test: path.stem in test for test in direct}
        return sorted(direct, key=lambda t: (t != mirrored, Path(t).parent != path.parent, not named[t], -counts[t], t))

    def circles(self, file: str) -> tuple[list[str], list[str]]:
        """Near: the first of those that mention it; where there are none, that mention files which import it.

        Wide: all others of these, its room's, the end-to-end ones.
        """
        room = Path(file).parent
        importers = [other for other, text in self.files.items() if other != file and self.mentions(file, text)]
        near = self.direct(file)
        over = [test for importer in importers for test in self.direct(importer)[:3]]
        beside = [test for test in self.tests if room.name and Path(test).parent == room]
        ends = [test for part in END_TO_END for test in self.tests if test == part or test.startswith(part + "/")]
        order = list(dict.fromkeys(near + beside + over + ends if near else over + beside + ends))
        first = min(NEAREST, len(near) or len(dict.fromkeys(over + beside)))
        return order[:first], order[first:]
