"""docs/fidelity.md agrees with the code, and what would not agree is found."""

from __future__ import annotations

import pytest

from experiments.fidelity import DOCUMENT, LEDGER, Row, findings, rows

TEXT = DOCUMENT.read_text(encoding="utf-8")
HEAD = "| Ledger | Open | Switch and default | What | Held by |\n|---|---|---|---|---|\n"


def test_the_document_agrees_with_the_code():
    assert not findings(TEXT), "\n".join(findings(TEXT))
    assert len(list(rows(TEXT))) > 50


def complaints(row: str, tmp_path) -> list[str]:
    """Those about one row, with a test file that mentions C1 and no other number."""
    (tmp_path / "test_known.py").write_text('"""The sign of Eq. 5 (C1)."""')
    return [line for line in findings(HEAD + row, tmp_path) if "line 3" in line]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("| C1 | x | `rounds.eddf.sign=intended` | x | `test_known` |", "no field rounds.eddf.sign"),
        ("| C1 | x | `rounds.eddf.rule=literal` | x | `test_known` |", "the default, which is intended"),
        ("| C1 | x | `rounds.eddf.rule=inteded` | x | `test_known` |", "must be one of intended, literal, relaxed"),
        ("| C1 | x | `rounds.eddf.rule=intended` (`literal`) | x | `test_known` |", "also allows relaxed"),
        ("| C1 | x | `rounds.eddf.rule=intended` (`literl`, `literal`, `relaxed`) | x | `test_known` |", "`literl` is"),
        ("| C1 | x | `rounds.rank=128`, `alpha=17` | x | `test_known` |", "which is 16.0"),
        ("| C1 | x | `rund.*` | x | `test_known` |", "no table rund"),
        ("| C1 | x | `--preset=wlker` | x | `test_known` |", "unknown preset 'wlker'"),
        ("| C1 | x | `experiments.nothing` | x | `test_known` |", "no module experiments.nothing"),
        ("| C1 | x | `rounds.psi0=5000` | x | `test_unknown` |", "no file test_unknown.py"),
        ("| C1 | x | `rounds.psi0=5000` | x | nothing |", "names no test"),
        ("| C2 | x | `rounds.psi0=5000` | x | `test_known` |", "none of test_known mentions C2 or psi0"),
    ],
)
def test_a_wrong_row_is_found(row, words, tmp_path):
    (line,) = complaints(row, tmp_path)
    assert words in line and "\n" not in line


@pytest.mark.parametrize(
    "row",
    [
        "| C1 | x | none | x | `test_known` |",
        "| C1 | x | `rounds.eddf.rule=intended` (`literal`, `relaxed`) | x | `test_known` |",
        "| C1 | x | `rounds.rank=128`, `alpha=16`, `targets=all` (`language`) | x | `test_known` |",
        "| C1 | x | `learner.ver.rule=intended` (`literal`, `affine` with `low` and `high`) | x | `test_known` |",
        "| C1 | x | `learner.*`; `--method=rsf --set learner.vpg.weight=5` | x | `test_known` |",
        "| | x | none | x | `test_known` |",
    ],
)
def test_a_right_row_is_let_through(row, tmp_path):
    assert not complaints(row, tmp_path)


def test_what_is_absent_is_named(tmp_path):
    found = findings(HEAD + "| S1, E33 | x | `rounds.psi0=5000` | x | nothing |")
    assert any("rounds.rank nowhere" in line for line in found) and not any("rounds.psi0 now" in line for line in found)
    (numbers,) = [line for line in found if "no row for C1," in line]
    assert numbers.count(",") >= LEDGER["C"] - 1


def test_rows_are_read_across_an_empty_line():
    text = HEAD + "| S1 | a | none | b | `test_x` |\n\n| S2, S3 | a | none | b | `test_y` |\n"
    text += "\n| Paper | What |\n|---|---|\n| C9 | d |\n"
    assert list(rows(text)) == [Row(3, ["S1"], "none", ["test_x"]), Row(5, ["S2", "S3"], "none", ["test_y"])]
