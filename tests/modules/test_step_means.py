from __future__ import annotations

import pytest
import torch

from lightning_sdft.modules.step_means import StepMeans

CPU = torch.device("cpu")


def test_weighted_mean_of_what_was_added_since_the_last_reading() -> None:
    means = StepMeans()
    means.add("kl", torch.tensor(1.0), weight=3)
    means.add("kl", 5.0, weight=1)
    means.add("loss", 2.0)
    assert means.read(CPU) == {"kl": pytest.approx(2.0), "loss": 2.0}
    assert means.read(CPU) == {}
