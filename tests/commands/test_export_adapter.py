from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from lightning_sdft.checkpoint import load_policy
from lightning_sdft.commands.export import export
from lightning_sdft.modules import SDFTModule, SFTModule
from lightning_sdft.policy.lora import STUDENT, TEACHER, LoRA
from tests.commands.test_export import TOKENS, logits, train
from tests.conftest import make_model, make_tokenizer, move_adapter


def adapted(family: str, **arguments: Any) -> LoRA:
    """An adapter of linear layers and of both embeddings, which many families tie."""
    embedding, norm = ("wte", "ln_f") if family == "gpt2" else ("embed_tokens", "norm")
    layers = ["c_attn"] if family == "gpt2" else ["q_proj", "down_proj"]
    return LoRA(rank=3, target_modules=[*layers, embedding, "lm_head"], modules_to_save=[norm], **arguments)


@pytest.fixture(scope="module")
def adapter(
    family_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Any, Path]]:
    """A module of each family with adapters that matter, and its checkpoint."""
    arguments = {"teacher_template": "w50 {prompt} w51 {demonstration}", "max_teacher_prompt_tokens": 32}

    @cache
    def of(family: str) -> tuple[Any, Path]:
        folder = tmp_path_factory.mktemp(family)
        module, path = train(SDFTModule, family_folder(family), folder, lora=adapted(family), **arguments)
        for seed, name in enumerate((STUDENT, TEACHER)):
            move_adapter(module.policy.model, name, seed)
        module.trainer.save_checkpoint(path)
        return module, path

    return of


def attention_of(family: str) -> dict[str, str]:
    """What older releases of transformers have to be told, which ignore the soft cap of Gemma 2 by themselves."""
    return {"attn_implementation": "eager"} if family == "gemma2" else {}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_merged_adapter_is_a_plain_model_of_the_same_logits(
    weights: Any, family: str, adapter: Any, tmp_path: Path, family_folder: Callable[[str], Path]
) -> None:
    module, checkpoint = adapter(family)
    export(str(tmp_path), str(checkpoint), weights=weights)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, **attention_of(family))
    assert type(loaded) is type(module.policy.model)
    expected = logits(load_policy(None, str(checkpoint), weights).model)
    assert close(logits(loaded), expected)
    base, own = (
        AutoModelForCausalLM.from_pretrained(family_folder(family), **attention_of(family)),
        logits(module.policy.model),
    )
    assert not close(expected, logits(base))
    assert torch.equal(expected, own) == (weights == "student")
    assert loaded.num_parameters() - base.num_parameters() == (
        loaded.lm_head.weight.numel() if base.config.tie_word_embeddings else 0
    )  # what was tied has come apart
    assert not loaded.config.tie_word_embeddings
    assert {name.split(".")[-1] for name in load_file(tmp_path / "model.safetensors")} <= {"weight", "bias"}


def test_adapter_folder_is_read_by_peft(
    family: str,
    adapter: Any,
    tmp_path: Path,
    family_folder: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, checkpoint = adapter(family)
    export(str(tmp_path), str(checkpoint), weights="teacher", adapter=True)
    assert f"teacher's adapter written to {tmp_path} in float32" in capsys.readouterr().out
    base = AutoModelForCausalLM.from_pretrained(family_folder(family), **attention_of(family))
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(logits(loaded), logits(load_policy(None, str(checkpoint), "teacher").model))
    assert loaded.peft_config["default"].base_model_name_or_path == str(family_folder(family))
    AutoTokenizer.from_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("base", ["nf4", "int8"])
def test_adapter_over_few_bits_is_merged_or_read_by_peft_over_the_same_bits(base: Any, tmp_path: Path) -> None:
    make_model("llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "start")
    make_tokenizer().save_pretrained(tmp_path / "start")
    module, checkpoint = train(SFTModule, tmp_path / "start", tmp_path, lora=LoRA(rank=3, base=base))
    move_adapter(module.policy.model)
    module.trainer.save_checkpoint(checkpoint)
    expected = logits(module.policy.model)
    for dtype, near in (("float32", 1e-5), ("bfloat16", 0.1)):
        export(str(tmp_path / dtype), str(checkpoint), dtype=dtype)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / dtype, dtype=torch.float32)
        assert (logits(merged) - expected).abs().max() < near * expected.abs().max()
    assert not hasattr(merged.config, "quantization_config")
    export(str(tmp_path / "adapter"), str(checkpoint), adapter=True)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    over = logits(PeftModel.from_pretrained(plain, tmp_path / "adapter"))  # over weights of all their bits
    assert 1e-3 < (over - expected).abs().max() / expected.abs().max() < 0.5
    if base == "nf4":
        bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        same = AutoModelForCausalLM.from_pretrained(tmp_path / "start", quantization_config=bits)
        loaded = PeftModel.from_pretrained(same, tmp_path / "adapter").train()  # bitsandbytes answers in bfloat16
        with torch.no_grad():
            assert close(loaded(input_ids=TOKENS).logits, expected)


@pytest.mark.parametrize("alone", [False, True])
def test_precision_of_an_adapter(alone: bool, adapter: Any, tmp_path: Path) -> None:
    _, checkpoint = adapter("llama")
    export(str(tmp_path), str(checkpoint), dtype="bfloat16", adapter=alone)
    (file,) = tmp_path.glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}


def test_training_goes_on_from_a_merged_adapter(adapter: Any, tmp_path: Path) -> None:
    _, checkpoint = adapter("llama")
    export(str(tmp_path / "merged"), str(checkpoint))
    module, _ = train(SFTModule, tmp_path / "merged", tmp_path, lora=adapted("llama", dropout=0.0))
    assert module.trainer.global_step == 2


@pytest.mark.parametrize("alone", [False, True])
def test_whoever_reads_the_tokenizer_reads_the_weights(alone: bool, adapter: Any, tmp_path: Path) -> None:
    _, checkpoint = adapter("llama")
    export(str(tmp_path), str(checkpoint), adapter=alone)
    modes = {file.name: file.stat().st_mode for file in tmp_path.iterdir()}
    assert modes["adapter_model.safetensors" if alone else "model.safetensors"] == modes["tokenizer_config.json"]
