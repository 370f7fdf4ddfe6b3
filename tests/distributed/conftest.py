from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sdft.distributed.sharded_checkpoint import save_sharded


def checkpoint(value: float = 1.0) -> dict[str, Any]:
    weights = {"policy.a": torch.full((4, 3), value), "policy.b": torch.arange(5)}
    optimizer = {
        "state": {"policy.a": {"step": torch.tensor(3.0)}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}],
    }
    return {"state_dict": weights, "optimizer_states": [optimizer], "global_step": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_sharded(checkpoint(), tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"
