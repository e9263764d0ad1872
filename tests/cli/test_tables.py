"""Tables on standard output."""

from rich.table import Table
from rich.text import Text

from got_core.cli.tables import print_table

CELLS = [f"{number:020d}" for number in range(12)]


def wide() -> Table:
    table = Table("category", *(f"a heading of some length, {number}" for number in range(11)))
    table.add_row(*CELLS)
    return table


def test_a_wide_table_goes_whole_into_files_and_pipes(capsys):
    print_table(wide())
    (row,) = (line for line in capsys.readouterr().out.splitlines() if CELLS[0] in line)
    assert all(cell in row for cell in CELLS)


def test_a_narrow_terminal_folds_cells_and_drops_nothing(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    print_table(wide())
    said = Text.from_ansi(capsys.readouterr().out).plain
    assert "…" not in said
    digits = [line for line in said.splitlines() if "0000" in line]
    assert len(digits) > 1
    assert all(len(line) <= 100 for line in said.splitlines())
