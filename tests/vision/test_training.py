"""SFT and SDFT on rows with pictures: what student and teacher read, micro-batches, resume, adapters, evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from lightning_sdft.commands.export import export
from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.errors import PolicyError
from lightning_sdft.modules import CausalLMModule, DFTModule, SDFTModule, SFTModule
from lightning_sdft.policy import LoRA, Policy
from lightning_sdft.policy.lora import adapted_layers
from lightning_sdft.policy.written import check_written_model
from lightning_sdft.records import Example, Prompt, TokenSequence
from lightning_sdft.teacher import EMATeacher, LiveTeacher
from tests.vision.test_policy import Plain
from tests.vision.tiny import asked

METHODS = [SFTModule, DFTModule, SDFTModule]
ADAPTER = {"lora": LoRA(rank=2, dropout=0.2)}


def callbacks(method: type[CausalLMModule]) -> list[Callback]:
    return [EMATeacher(teacher_rate=0.1)] if issubclass(method, SDFTModule) else []


class Losses(Callback):
    def __init__(self) -> None:
        self.values: dict[tuple[int, int], float] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values[trainer.global_step, batch_idx % 2] = outputs["loss"].item()


def step(module: CausalLMModule, examples: list[Example], size: int) -> dict[str, Tensor]:
    """The gradient of an optimizer step in micro-batches of a size."""
    module.zero_grad()
    micro_batches = MicroBatch.cut(examples, size)
    for index, batch in enumerate(micro_batches):
        loss: Any = module.training_step(batch, index)
        (loss / len(micro_batches)).backward()
    return {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}


@pytest.fixture
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def examples(make_data: Callable[..., Any]) -> list[Example]:
    return list(make_data().splits.train[:4])


def test_sft_raises_the_likelihood_that_transformers_computes(
    double: None, vision_folder: Path, make_module: Callable[..., Any], examples: list[Example]
) -> None:
    module = make_module(SFTModule)
    module.configure_model()
    plain = Plain(vision_folder, torch.float64)

    with torch.no_grad():
        loss = module.training_step(MicroBatch.of(examples), 0)

    losses = []
    for example in examples:
        tokens = module.tokenizer.encode_completion(example.demonstration)
        losses.append(-plain.logits(example.prompt, tokens).log_softmax(-1)[range(len(tokens)), tokens])
    assert loss.item() == pytest.approx(torch.cat(losses).mean().item(), abs=1e-10)


def test_the_teacher_sees_the_same_images_with_the_demonstration_behind_them(
    double: None, vision_folder: Path, make_module: Callable[..., Any], examples: list[Example]
) -> None:
    module = make_module(teacher=LiveTeacher())  # a copy is in float32
    module.configure_model()
    plain = Plain(vision_folder, torch.float64)
    (example,) = examples[:1]
    image: Any = example.prompt[0]["content"][0]
    batch = MicroBatch.of([example])

    with torch.no_grad():
        loss = module.training_step(batch, 0)

    item: Any = batch.items[0]
    shown = [
        {"type": "text", "text": "look: "},
        image,
        {"type": "text", "text": f"color 0? as: {example.demonstration}!"},
    ]
    student = plain.logits(example.prompt, item.rollout.completion).log_softmax(-1)
    teacher = plain.logits([{"role": "user", "content": shown}], item.rollout.completion).log_softmax(-1)
    kl = (teacher.exp() * (teacher - student)).sum(-1).mean()
    assert loss.item() == pytest.approx(kl.item(), abs=1e-10)
    assert isinstance(item.teacher.prompt, Prompt)
    assert item.teacher.prompt.images == item.student.prompt.images


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_add_up_to_the_whole_step(
    double: None, make_module: Callable[..., Any], examples: list[Example], method: type[CausalLMModule]
) -> None:
    exact = {"teacher": LiveTeacher()} if method is SDFTModule else {}  # a copy is in float32
    module = make_module(method, **exact)
    module.configure_model()
    text = Example("text", [{"role": "user", "content": "no picture"}], "none")  # its micro-batch has fewer images
    group = [*examples[:3], text]

    found = []
    for size in (4, 2, 1):
        torch.manual_seed(0)
        found.append(step(module, group, size))

    assert any("visual" in name for name in found[0])
    for other in found[1:]:
        assert all(torch.allclose(other[name], each, rtol=0, atol=1e-10) for name, each in found[0].items())


@pytest.mark.parametrize(("method", "arguments"), [(SFTModule, {}), (SDFTModule, {}), (SDFTModule, ADAPTER)])
def test_resumed_run_equals_the_uninterrupted_one(
    make_module: Callable[..., Any],
    make_data: Callable[..., Any],
    make_trainer: Callable[..., Any],
    tmp_path: Path,
    method: type[CausalLMModule],
    arguments: dict[str, Any],
) -> None:
    def fit(folder: str, ckpt_path: Path | None = None) -> tuple[CausalLMModule, dict[tuple[int, int], float]]:
        seed_everything(7 if ckpt_path is None else 8)
        module, losses = make_module(method, **arguments), Losses()
        save = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
        trainer = make_trainer(max_steps=6, callbacks=[losses, save, *callbacks(method)], enable_checkpointing=True)
        trainer.fit(module, datamodule=make_data(), ckpt_path=ckpt_path)
        return module, losses.values

    whole, before = fit("whole")
    resumed, after = fit("resumed", tmp_path / "whole" / "step=3.ckpt")

    later = {key: value for key, value in before.items() if key[0] > 3}
    assert later
    assert {key: after[key] for key in later} == later
    state = whole.state_dict()
    assert all(torch.equal(state[name], value) for name, value in resumed.state_dict().items())


def test_an_adapter_is_in_the_layers_that_read_text(make_module: Callable[..., Any]) -> None:
    module = make_module(SFTModule, lora=LoRA(target_modules=["gate_proj", "q_proj"]))
    module.configure_model()
    adapted = {id(each) for each in adapted_layers(module.policy.model)}
    names = [name for name, each in module.policy.model.named_modules() if id(each) in adapted]
    assert len(names) == 4
    assert all("language_model" in name for name in names)


def test_sft_learns_the_colors_and_evaluation_shows_it(
    vision_folder: Path,
    make_module: Callable[..., Any],
    make_data: Callable[..., Any],
    make_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    rows = []
    for index in range(8):
        name, color = f"{index}.png", (255, 0, 0) if index % 2 else (0, 0, 255)
        Image.new("RGB", (16, 16 + index), color).save(folder / name)
        answer = "r" if index % 2 else "b"
        rows.append({"prompt": "color?", "images": name, "response": answer, "right": answer})
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = {"train": str(file), "test": str(file), "reference_column": "right"}
    module = make_module(SFTModule, learning_rate=3e-3)
    trainer = make_trainer(max_steps=40)

    trainer.fit(module, datamodule=make_data(**data))
    (scores,) = trainer.test(module, datamodule=make_data(**data), verbose=False)

    assert scores["test/accuracy"] == 1.0
    records = trainer.predict(module, datamodule=make_data(**data))[0]
    assert records[0]["prompt"][0]["content"][0] == {"type": "image", "image": str(folder / "0.png")}
    assert module.answer([asked(folder / "0.png", text="color?"), "and none?"])[0] == "b"


@pytest.mark.parametrize(
    ("method", "arguments", "weights"),
    [(SFTModule, {}, "student"), (SDFTModule, {}, "teacher"), (SFTModule, {"lora": LoRA(rank=2)}, "student")],
)
def test_an_exported_folder_is_what_transformers_reads(
    make_module: Callable[..., Any],
    make_data: Callable[..., Any],
    make_trainer: Callable[..., Any],
    tmp_path: Path,
    pictures: list[Path],
    method: type[CausalLMModule],
    arguments: dict[str, Any],
    weights: Any,
) -> None:
    module = make_module(method, **arguments)
    trainer = make_trainer(max_steps=2, callbacks=callbacks(method))
    trainer.fit(module, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "trained.ckpt")

    export(str(tmp_path / "folder"), str(tmp_path / "trained.ckpt"), weights=weights)

    policy = module.policy if weights == "student" else module.teacher.policy
    conversation, completion = asked(pictures[0], pictures[1]), [7, 9, 8]
    with torch.no_grad():
        policy.eval()
        ours = policy.head(policy.hidden([sequence(module, conversation, completion)]))
    theirs = Plain(tmp_path / "folder", torch.float32).logits(conversation, completion)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert "AutoModelForImageTextToText" in card
    assert "apply_chat_template(messages, tokenize=True, " in card


def test_export_notices_other_weights_of_the_layers_that_read_images(seeing: Policy, tmp_path: Path) -> None:
    seeing.save_pretrained(tmp_path)
    check_written_model(seeing, tmp_path, torch.float32, False)
    with torch.no_grad():
        seeing.model.base_model.visual.merger.ln_q.weight.mul_(1.5)
    with pytest.raises(PolicyError, match="computes other logits"):
        check_written_model(seeing, tmp_path, torch.float32, False)


def test_an_exported_adapter_stands_on_the_model(
    vision_folder: Path,
    make_module: Callable[..., Any],
    make_data: Callable[..., Any],
    make_trainer: Callable[..., Any],
    tmp_path: Path,
    pictures: list[Path],
) -> None:
    module = make_module(SFTModule, lora=LoRA(rank=2))
    trainer = make_trainer(max_steps=2)
    trainer.fit(module, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "trained.ckpt")

    export(str(tmp_path / "adapter"), str(tmp_path / "trained.ckpt"), adapter=True)

    plain = Plain(vision_folder, torch.float32)
    before = plain.logits(asked(pictures[0]), [7, 9])
    base = AutoModelForImageTextToText.from_pretrained(vision_folder, dtype=torch.float32)
    plain.model = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().eval()
    theirs = plain.logits(asked(pictures[0]), [7, 9])
    module.eval()
    with torch.no_grad():
        ours = module.policy.head(module.policy.hidden([sequence(module, asked(pictures[0]), [7, 9])]))
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
    assert not torch.allclose(before, theirs, atol=1e-3)


def sequence(module: CausalLMModule, conversation: Any, completion: list[int]) -> Any:
    return TokenSequence(module.tokenizer.encode(conversation), completion)
