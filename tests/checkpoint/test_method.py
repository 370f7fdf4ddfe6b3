from __future__ import annotations

import pytest

import lightning_sdft
from lightning_sdft.checkpoint import check_method, describe_method
from lightning_sdft.errors import CheckpointError
from lightning_sdft.policy.lora import LoRA


def test_description_says_method_model_and_version() -> None:
    expected = {"method": "SFTModule", "model": "a-model", "version": lightning_sdft.__version__}
    assert describe_method("SFTModule", "a-model") == expected


def test_description_says_what_the_adapter_is_like() -> None:
    about = describe_method("SFTModule", "a-model", LoRA(rank=3, target_modules=["q_proj"]))
    assert about["lora"] == {
        "rank": 3,
        "alpha": 32,
        "target_modules": ["q_proj"],
        "dropout": 0.0,
        "modules_to_save": [],
        "rank_stabilized": False,
        "base": "full",
    }


def test_own_method_passes() -> None:
    check_method({"lightning_sdft": describe_method("SFTModule", "a-model")}, "SFTModule")


def test_other_methods_are_refused_with_the_way_out() -> None:
    message = r"written by SFTModule, not by SDFTModule; .* export the checkpoint .* \(model=FOLDER\)"
    with pytest.raises(CheckpointError, match=message):
        check_method({"lightning_sdft": describe_method("SFTModule", "a-model")}, "SDFTModule")
    with pytest.raises(CheckpointError, match="written by something other than lightning_sdft, not by SDFTModule"):
        check_method({"state_dict": {}}, "SDFTModule")
