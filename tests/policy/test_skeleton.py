from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_sdft.errors import PolicyError
from lightning_sdft.modules import SFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.policy.skeleton import check_adapter_fits, skeleton
from tests.conftest import make_model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_has_the_layers_and_no_weights(family: str, family_folder: Callable[[str], Path]) -> None:
    model = skeleton(str(family_folder(family)), trust_remote_code=False)
    whole = dict(make_model(family).named_parameters())
    found = dict(model.named_parameters())
    assert {name: each.shape for name, each in found.items()} == {name: each.shape for name, each in whole.items()}
    assert {each.device.type for each in found.values()} == {"meta"}


def test_an_adapter_that_does_not_fit_is_refused_before_weights_are_read(
    family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = family_folder("llama")
    check_adapter_fits(str(folder), LoRA(), trust_remote_code=False)
    copied = tmp_path / "without-weights"
    copied.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (copied / file.name).write_bytes(file.read_bytes())
    module = SFTModule(str(copied), lora=LoRA(target_modules=["q_prj"]))
    with pytest.raises(PolicyError, match=r"target_modules=\['q_prj'\].* name some of .*'q_proj'"):
        module.load_models()
