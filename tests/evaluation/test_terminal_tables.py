"""Tables on the terminal: of one detector with more figures, of two beside each other."""

from __future__ import annotations

from alignrank.evaluation.tables import _classes

FIGURES = dict.fromkeys(("ap", "ap50", "ap75", "lrp", "threshold", "spearman", "spearman_true", "misranked"), 0.5)


def headings(names: list[str]) -> list[str]:
    table = _classes({name: {1: {"name": "cat", **FIGURES}} for name in names})
    return [str(column.header) for column in table.columns]


def test_columns_of_one_and_of_two_detectors() -> None:
    one, two = headings(["value"]), headings(["first", "second"])
    assert len(one) == 9
    assert not any("value" in heading for heading in one)
    assert [heading.split()[0] for heading in two] == ["class", *["first"] * 3, *["second"] * 3]
