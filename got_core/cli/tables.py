"""Tables on standard output, of which nothing is cut off."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 10_000
"""Characters of a line that no table reaches."""


def print_table(table: Table) -> None:
    """Print a table as wide as it is; in a terminal that is narrower, its cells are folded."""
    console = Console()
    for column in table.columns:
        column.overflow = "fold"
    if not console.is_terminal:
        natural = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
        console.width = max(console.width, natural)
    console.print(table)
