from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BartConfig, BartForConditionalGeneration, ViTConfig, ViTModel

from lightning_sdft.checkpoint import load_policy
from lightning_sdft.commands.export import export
from lightning_sdft.errors import PolicyError
from lightning_sdft.modules import SFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA
from tests.commands.test_export import logits, train
from tests.conftest import VOCABULARY, make_tokenizer

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def rewritten(source: Path, folder: Path, change: Change) -> str:
    """A copy of a model's folder with other weights in its file."""
    copytree(source, folder)
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return str(folder)


def with_own_head(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].flip(0).clone()}


@pytest.fixture
def untied(family_folder: Callable[[str], Path], tmp_path: Path) -> str:
    """A model whose config says that its head is tied, with a head of its own in the file."""
    return rewritten(family_folder("qwen2"), tmp_path / "untied", with_own_head)


def test_head_in_the_file_is_trained_and_exported_though_the_config_ties_it(untied: str, tmp_path: Path) -> None:
    assert json.loads(Path(untied, "config.json").read_text())["tie_word_embeddings"]
    module, checkpoint = train(SFTModule, Path(untied), tmp_path)
    export(str(tmp_path / "out"), str(checkpoint))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(module.policy.model))


def test_head_in_the_file_is_kept_where_there_is_no_checkpoint(untied: str, tmp_path: Path) -> None:
    policy = load_policy(untied, None)
    assert not policy.config.tie_word_embeddings
    policy.save_pretrained(tmp_path / "out")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(policy.model))


def test_tied_head_stays_tied(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    _, checkpoint = train(SFTModule, family_folder("qwen2"), tmp_path)
    policy = load_policy(None, str(checkpoint))
    assert policy.head.weight is policy.model.get_input_embeddings().weight
    assert policy.config.tie_word_embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: {f"module.{name}": each for name, each in weights.items()},
            "21 are missing .*21 have no place",
        ),
        (
            lambda weights: {name: each for name, each in weights.items() if "layers.1.mlp.up" not in name},
            r"1 are missing \(model\.layers\.1\.mlp\.up_proj\.weight\)",
        ),
        (
            lambda weights: {**weights, "model.layers.2.extra": torch.ones(2)},
            r"1 have no place in it \(model\.layers\.2\.extra\)",
        ),
        (
            lambda weights: {**weights, "lm_head.weight": torch.ones(60, 32)},
            r"1 have another shape \(lm_head\.weight\)",
        ),
    ],
    ids=["prefix", "missing", "left over", "another shape"],
)
def test_weights_that_are_not_those_of_the_config_are_refused(
    change: Change, message: str, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy.load(rewritten(family_folder("llama"), tmp_path / "other", change))


def test_damaged_weights_are_refused(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    def damaged(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
        return weights

    with pytest.raises(PolicyError, match="LlamaForCausalLM are not finite"):
        Policy.load(rewritten(family_folder("llama"), tmp_path / "damaged", damaged))


def test_folder_with_an_adapter_is_refused(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    _, checkpoint = train(SFTModule, family_folder("llama"), tmp_path, lora=LoRA(rank=2))
    export(str(tmp_path / "adapter"), str(checkpoint), adapter=True)
    beside = copytree(family_folder("llama"), tmp_path / "beside")
    copytree(tmp_path / "adapter", beside, dirs_exist_ok=True)
    for folder in (tmp_path / "adapter", beside):
        with pytest.raises(PolicyError, match=r"holds a PEFT adapter.*merge"):
            Policy.load(str(folder))


def test_encoder_decoder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    config = BartConfig(vocab_size=len(VOCABULARY), d_model=16, encoder_layers=1, decoder_layers=1)
    config.encoder_attention_heads = config.decoder_attention_heads = 2
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(PolicyError, match=r"encoder-decoder \(bart\)"):
        Policy.load(str(tmp_path))


def test_model_that_generates_no_text_is_refused(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**shape, image_size=8, patch_size=4)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="no causal language model"):
        Policy.load(str(tmp_path))
