"""`got compare`."""

import sys
from pathlib import Path

from got_core.cli.tables import print_table
from got_core.evaluation.compare import difference_table, differences, what_differs
from got_core.evaluation.results import OVERALL, read_results

BOOTSTRAP_SEED = 0
"""Of the intervals and the signs that are drawn."""


def compare(a: str, b: str) -> None:
    """Say whether one results.json is better than another, item by item.

    Args:
        a: Results of got evaluate.
        b: Results of the same suite.

    Raises:
        UserError: They cannot be compared.

    Example:
        got compare first/results.json second/results.json
    """
    first, second = (read_results(Path(file)) for file in (a, b))
    found = differences(first, second, BOOTSTRAP_SEED)
    judged_alike = first.judge == second.judge
    for figure, parts in found.items():
        print_table(difference_table(parts, first, second, figure, judged_alike))
        shared = parts[OVERALL].items
        if shared < max(len(first.items), len(second.items)):
            print(f"compared over the {shared} items of both: A has {len(first.items)}, B {len(second.items)}")
    tested = sum(len(parts) - 1 for parts in found.values())
    print(
        f"by chance: how likely so large a difference is if A and B do not differ (sign-flip test), corrected for the "
        f"number of tests (Holm): {tested} of categories, {len(found)} overall"
    )
    for line in what_differs(first, second):
        print(f"A and B differ in {line}")
    if not judged_alike:
        print("got: A and B were not judged alike: no difference is called significant", file=sys.stderr)
