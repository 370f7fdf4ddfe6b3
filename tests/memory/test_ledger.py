from __future__ import annotations

import torch

from lightning_sdft.memory.ledger import Ledger


def test_a_storage_counts_once_and_until_the_last_view_of_it_is_gone() -> None:
    ledger = Ledger()
    whole = ledger.enter(torch.zeros(100))
    part = ledger.enter(whole[10:20])
    assert ledger.now == 400
    del whole
    assert ledger.now == 400
    del part
    assert ledger.now == 0


def test_what_autograd_keeps_counts() -> None:
    ledger = Ledger()
    kept = ledger.enter(torch.zeros(100, requires_grad=True).exp())
    loss = kept.sum()
    del kept
    assert ledger.now == 400
    loss.backward()
    assert ledger.now == 0


def test_peaks_are_those_of_the_code_inside() -> None:
    ledger = Ledger()
    before = ledger.enter(torch.zeros(10))
    with ledger.measured() as whole:
        with ledger.measured() as first:
            ledger.enter(torch.zeros(100))
        with ledger.measured() as second:
            kept = ledger.enter(torch.zeros(20))
            ledger.enter(torch.zeros(30))
        del before
    assert (first.before, first.peak, first.kept) == (40, 400, 0)
    assert (second.before, second.peak, second.kept) == (40, 200, 80)
    assert (whole.before, whole.peak, whole.kept) == (40, 400, 40)
    assert len(kept) == 20
