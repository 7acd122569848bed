"""How the tables read: what is cut where space is short, the marks that stay, and the notes that explain them."""

from __future__ import annotations

import re

import networks
import pytest
import small_networks
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convblocks.introspect.summary import Summary, summary
from convblocks.introspect.tables import Column, Table

TABLE = Table(
    (Column("name", right=False, least=6), Column("kind", right=False, rank=1, least=4), Column("n", rank=2)),
    [("  a long name", "something", "123"), ("  pool2d_of_a_kind() +", "", "4")],
    ("a note of many words",),
)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (40, ["name                    kind         n", "  pool2d_of_a_kind() +               4"]),
        (36, ["name                  kind         n", " pool2d_of_a_ki…() +               4"]),
        (24, ["name      kind         n", " po…() +               4"]),
        (16, ["name     kind", " p…() +"]),
        (9, ["name", " poo…() +"]),
    ],
)
def test_cells_are_cut_before_columns_leave_and_marks_stay(width: int, expected: list[str]) -> None:
    lines = TABLE.text(width).splitlines()
    assert [lines[0], lines[3]] == expected
    assert max(map(len, lines[:4])) <= width


def test_notes_are_wrapped_and_what_left_is_named() -> None:
    text = Table(TABLE.columns, TABLE.rows, ["a note of many words that does not fit"]).text(30)
    assert text.endswith("\n\na note of many words that does\n  not fit")
    assert "not shown in 9\n  columns: kind, n" in TABLE.text(9)


def test_an_empty_column_leaves_first_and_is_not_missed() -> None:
    table = Table(
        (Column("name", right=False, least=4), Column("g", rank=1), Column("n", rank=9)), [("a name", "", "3")]
    )
    assert table.text(9) == "name    n\n---------\na name  3"
    assert table.text(12).splitlines()[0] == "name    g  n"


def test_a_column_may_lose_its_front() -> None:
    table = Table((Column("layer", right=False, least=8, from_front=True),), [("stages.2.blocks.1.conv",)])
    assert table.text(12).splitlines()[2] == "…ocks.1.conv"


def rows_of(table: Summary, width: int) -> list[str]:
    return table.text(width).split("\n\n")[0].splitlines()


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (networks.era_s9(), (3, 32, 32)),
        (small_networks.UNet("nearest"), (1, 64, 64)),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1)), (2, 64)),
    ],
)
def test_eighty_columns_hold_what_a_reader_looks_for(model: nn.Module, size: tuple[int, ...]) -> None:
    """Once kernel and stride left first, and the column of types stayed as wide as its longest name."""
    lines = rows_of(summary(model, size), 80)
    titles = {"layer", "type", "k", "s", "d", "output", "field", "jump", "params", "MACs"}
    assert titles <= set(lines[0].split())
    assert max(map(len, lines)) <= 80


def test_names_are_those_below_the_row_above() -> None:
    names = [line.split()[0] for line in rows_of(summary(small_networks.UNet("nearest"), (1, 64, 64)), 160)[2:]]
    assert names[:4] == ["UNet", "down.0", "0", "1"]
    assert {"down.1", "bottom", "shrink.0", "merge.1", "head"} <= set(names)
    # Never called: it stands below no other, so its whole name does.
    assert "\ngrow.0 -" in summary(small_networks.UNet("nearest"), (1, 64, 64)).text(160)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)).requires_grad_(False)
        self.bias = nn.Conv2d(3, 3, 1)
        self.bias.get_parameter("bias").requires_grad_(False)
        self.trained = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.trained(self.bias(self.all(x))), 2)


def test_frozen_rows_and_functions_are_marked_and_the_notes_say_so() -> None:
    text = summary(Frozen(), (3, 8, 8)).text(80)
    names = [line.split("  Conv2d")[0].split("  Sequential")[0].strip() for line in text.splitlines()[2:8]]
    assert [name.endswith(" #") for name in names] == [False, True, True, True, True, False]
    assert re.search(r"\n max_pool2d\w*…\(\)  ", text)
    assert "\n# frozen parameters" in text
    assert "\n() an operation" in text
    assert "(27 frozen)" in text
    with torch.no_grad():
        plain = summary(nn.Sequential(nn.Conv2d(3, 3, 1)), (3, 8, 8)).text(80)
    assert "#" not in plain
    assert "()" not in plain


@pytest.mark.parametrize(("size", "expected"), [((3, 8, 8), "input 768 B"), ((3, 32, 32), "input 12.3 kB")])
def test_memory_of_small_inputs(size: tuple[int, ...], expected: str) -> None:
    """It once was 0.0 MB."""
    assert expected in summary(nn.Conv2d(3, 4, 3), size).text(100)


def test_memory_of_large_ones() -> None:
    text = summary(nn.Conv2d(3, 16, 3, device="meta"), (3, 8000, 8000)).text(100)
    assert "input 768.0 MB" in text
    assert "activations at most 4.1 GB" in text


def test_a_field_of_which_gates_leave_nothing_is_no_zero() -> None:
    class FirstToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat((self.token, self.patch(x).flatten(2).transpose(1, 2)), 1)
            return (x + self.attend(x, x, x, need_weights=False)[0])[:, 0]

    table = summary(FirstToken(), (3, 32, 32))
    assert table.table().rows[0][9] == "all*"
    assert "1.14" not in table.text(160)


def test_markdown_notes_are_neither_lists_nor_headings() -> None:
    markdown = summary(Frozen(), (3, 8, 8)).markdown()
    assert "\n\n\\# frozen parameters" in markdown
    assert "\n#" not in markdown
    assert "&lt;a|b" not in markdown
    assert Table((Column("x"),), [("<a|b>",)]).markdown().splitlines()[2] == "| &lt;a\\|b> |"


def test_html_is_escaped_and_keeps_the_nesting() -> None:
    page = Table((Column("x", right=False),), [("    <b>",)], ["a & b"]).html()
    assert "padding: 0 0.6em 0 2.6em" in page
    assert "&lt;b&gt;" in page
    assert "<p>a &amp; b</p>" in page


def test_the_receptive_field_table_fits_eighty_columns() -> None:
    lines = summary(networks.era_s9(), (3, 32, 32)).geometry().text(80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("…v2.fn.0.conv_dw") for line in lines)
