from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_sdft.commands.export import export
from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.errors import CheckpointError, SettingError
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.records import Example
from lightning_sdft.teacher import CopiedTeacher, EMATeacher

TOKENS = torch.tensor([[2, 11, 12, 3, 21, 22, 4]])


def train(method: type[CausalLMModule], model: Path, folder: Path, **arguments: Any) -> tuple[CausalLMModule, Path]:
    """A module after two steps, and its checkpoint."""
    torch.manual_seed(0)
    module = method(str(model), max_prompt_tokens=16, max_completion_tokens=8, learning_rate=0.01, **arguments)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        callbacks=[EMATeacher(0.3)] if method is SDFTModule else [],
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    examples = [Example(str(index), [{"role": "user", "content": f"w{index + 1}"}], "w21 w22") for index in range(4)]
    trainer.fit(module, DataLoader(examples, batch_size=2, collate_fn=MicroBatch.of))  # type: ignore[arg-type]
    trainer.save_checkpoint(folder / "trained.ckpt")
    return module, folder / "trained.ckpt"


@pytest.fixture(scope="module")
def sdft(family_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[SDFTModule, Path]:
    arguments = {"teacher_template": "w50 {prompt} w51 {demonstration}", "max_teacher_prompt_tokens": 32}
    return train(SDFTModule, family_folder("llama"), tmp_path_factory.mktemp("sdft"), **arguments)  # type: ignore[return-value]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_plain_transformers_loads_the_folder_and_gives_the_same_logits(
    weights: Any,
    sdft: tuple[SDFTModule, Path],
    family_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, checkpoint = sdft
    export(str(tmp_path / "out"), str(checkpoint), weights=weights)
    assert f"{weights} written to {tmp_path / 'out'} in float32" in capsys.readouterr().out
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.float32
    policies = {"student": module.policy, "teacher": module.teacher.policy}
    assert torch.equal(logits(loaded), logits(policies.pop(weights).model))
    assert not torch.allclose(logits(loaded), logits(next(iter(policies.values())).model), atol=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    question = [{"role": "user", "content": "w1"}]
    assert tokenizer.apply_chat_template(question) == AutoTokenizer.from_pretrained(
        family_folder("llama")
    ).apply_chat_template(question)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_precision_of_the_files(dtype: Any, sdft: tuple[SDFTModule, Path], tmp_path: Path) -> None:
    module, checkpoint = sdft
    export(str(tmp_path), str(checkpoint), dtype=dtype)
    expected = getattr(torch, dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {expected}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == expected
    for name, value in module.policy.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(expected))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tied_weights_are_written_once(dtype: Any, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    module, checkpoint = train(SFTModule, family_folder("qwen2"), tmp_path)
    export(str(tmp_path / "out"), str(checkpoint), dtype=dtype)
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    for name, value in module.policy.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(loaded.dtype))


def test_without_an_adapter_there_is_none_to_write(sdft: tuple[SDFTModule, Path], tmp_path: Path) -> None:
    for arguments in ({"checkpoint": str(sdft[1])}, {"model": "zoo/laptop"}):
        with pytest.raises(CheckpointError, match=r"there is no adapter in '.*'; leave out adapter=true"):
            export(str(tmp_path / "out"), adapter=True, **arguments)
    assert not (tmp_path / "out").exists()


def test_training_goes_on_from_an_exported_folder(sdft: tuple[SDFTModule, Path], tmp_path: Path) -> None:
    module, checkpoint = sdft
    export(str(tmp_path / "out"), str(checkpoint))
    other = SFTModule(str(tmp_path / "out"), max_prompt_tokens=16, max_completion_tokens=8)
    other.configure_model()
    state = module.policy.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.policy.state_dict().items())
    assert other.tokenizer.stop_ids == module.tokenizer.stop_ids


def test_compensated_teacher_is_written_in_float32(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = {"teacher_template": "w50 {prompt} w51 {demonstration}", "max_teacher_prompt_tokens": 32}
    module, checkpoint = train(
        SDFTModule, family_folder("qwen2"), tmp_path, teacher=CopiedTeacher("compensated"), **arguments
    )
    assert isinstance(module, SDFTModule)
    export(str(tmp_path / "out"), str(checkpoint), weights="teacher")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for ours, exact in zip(loaded.parameters(), module.teacher.weights(), strict=True):
        assert torch.equal(ours, exact)
        assert not torch.equal(ours, exact.bfloat16().float())


def test_model_that_was_moved_can_be_named(
    sdft: tuple[SDFTModule, Path], family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    _, checkpoint = sdft
    content = torch.load(checkpoint)
    content["lightning_sdft"]["model"] = str(tmp_path / "gone")
    torch.save(content, tmp_path / "moved.ckpt")
    export(str(tmp_path / "out"), str(tmp_path / "moved.ckpt"), model=str(family_folder("llama")))
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_without_checkpoint_the_model_itself_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(str(tmp_path), model="zoo/laptop", dtype="float32")
    assert "model written to" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32


def test_needs_a_checkpoint_or_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a model or a checkpoint is needed"):
        export(str(tmp_path))


def test_checkpoint_of_other_software_is_refused(tmp_path: Path) -> None:
    module = LightningModule()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=r"foreign.ckpt' is not a checkpoint of lightning_sdft"):
        export(str(tmp_path / "out"), str(tmp_path / "foreign.ckpt"))
    assert not (tmp_path / "out").exists()


def test_torn_checkpoint_is_refused(sdft: tuple[SDFTModule, Path], tmp_path: Path) -> None:
    _, checkpoint = sdft
    (tmp_path / "torn.ckpt").write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"torn.ckpt' .* is truncated"):
        export(str(tmp_path / "out"), str(tmp_path / "torn.ckpt"))


def test_method_without_teacher_has_none_to_export(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    _, checkpoint = train(SFTModule, family_folder("llama"), tmp_path)
    with pytest.raises(CheckpointError, match=r"trained.ckpt', of SFTModule, has no weights of a teacher"):
        export(str(tmp_path / "out"), str(checkpoint), weights="teacher")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_only_overwritten_if_asked_to(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(out), model="zoo/laptop")
    (out / "README.md").write_text("mine")
    (out / "model-00001-of-00002.safetensors").write_text("a part of another model")
    with pytest.raises(SettingError, match=r"out is not empty; give another folder, or --overwrite=true"):
        export(str(out), model="zoo/laptop", dtype="float16")
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float32
    export(str(out), model="zoo/laptop", dtype="float16", overwrite=True)
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float16
    assert (out / "README.md").read_text() == "mine"
    assert [each.name for each in out.glob("*.safetensors")] == ["model.safetensors"]
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_an_overwritten_model_may_be_the_one_that_is_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(out), model="zoo/laptop")
    export(str(out), model=str(out), dtype="bfloat16", overwrite=True)
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
