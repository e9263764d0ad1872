"""Repeated operations are counted as they are the first time."""

import torch

from got_core.inspection.shapes import META, ShapeRun


def test_an_operation_is_counted_alike_each_time():
    """Each of these is worked out once and remembered, but for those whose result lies in an argument's memory."""
    weight = torch.empty(8, 16, device=META)
    spent = []
    with ShapeRun() as run:
        for _ in range(3):
            start, run.stage = run.flops, run.stage + 1
            left = torch.empty(4, 32, 8, device=META)
            result = torch.ops.aten._unsafe_view(left @ weight, [4 * 32, 16]).exp()
            spent.append((run.flops - start, run.live, run.peaks[run.stage]))
            del left, result
    assert len(set(spent)) == 1
    product = 4 * 32 * 16
    assert spent[0] == (2 * 8 * product, 4 * (4 * 32 * 8 + product), 4 * (4 * 32 * 8 + 2 * product))


def test_a_result_depends_on_kinds_of_numbers_and_on_strides():
    with ShapeRun():
        whole, real = torch.arange(6, device=META), torch.arange(6.0, device=META)
        assert [(whole + 1).dtype, (whole + 1.0).dtype, (whole + True).dtype] == [
            torch.int64,
            torch.float32,
            torch.int64,
        ]
        assert (real + 1).dtype == torch.float32
        square = torch.empty(2, 3, device=META)
        assert square.exp().stride() == (3, 1)
        assert torch.empty(3, 2, device=META).t().exp().stride() == (1, 2)
