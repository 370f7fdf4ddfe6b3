from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_sdft.commands.noise import keep_quiet


@pytest.fixture
def quiet() -> Iterator[None]:
    """Quiet for one test, with the handlers that Lightning makes where pytest has none of its own at its import."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [list(each.handlers) for each in loggers]
    for each in loggers:
        each.handlers = [logging.StreamHandler()]
    with warnings.catch_warnings():
        keep_quiet()
        yield
    for each, handlers in zip(loggers, before, strict=True):
        each.handlers = handlers


@pytest.mark.usefixtures("quiet")
def test_advice_to_use_other_products_is_left_out_and_the_rest_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (first := io.StringIO(), second := io.StringIO()):
        monkeypatch.setattr(sys, "stderr", each)
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        rank_zero_info("The teacher stays frozen.")
    for each in (first, second):  # wherever standard error goes at the moment
        assert "litlogger" not in each.getvalue()
        assert "TPU" not in each.getvalue()
        assert each.getvalue().endswith("The teacher stays frozen.\n")


@pytest.mark.usefixtures("quiet")
def test_warnings_that_concern_nobody() -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        keep_quiet()
        warnings.warn("The dirpath has changed from 'a' to 'b', therefore ...", stacklevel=1)
        warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", stacklevel=1)
        warnings.warn("Rollouts are cut.", stacklevel=1)
    assert [str(each.message) for each in found] == ["Rollouts are cut."]
