"""Retention: the student stays near the model that training started from, on prompts that are not trained on."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lightning_sdft.callbacks import KLToBase
from lightning_sdft.callbacks.kl_to_base import sequence_kl
from lightning_sdft.data.general import GeneralDataModule
from lightning_sdft.data.groups import Group, MicroBatch
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.losses import ReverseKL
from lightning_sdft.modules import CausalLMModule, DFTModule, SDFTModule, SequenceDistillationModule, SFTModule
from lightning_sdft.modules.retention import Retention, RetentionLoss
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.records import Example, Rollout, Sampling, TokenSequence
from lightning_sdft.rollout import generate
from tests.modules.conftest import question
from tests.modules.dense import log_probabilities
from tests.modules.test_resume import check_resume

GENERAL = [Example(f"general-{index}", question(index).prompt) for index in range(30, 42)]


@pytest.fixture
def general(words_data: Any) -> Any:
    """A data module of general prompts."""
    return words_data(train=GENERAL)


@pytest.fixture
def policies(words_module: Any) -> tuple[Policy, Policy]:
    """A student that has moved, and its base."""
    student, base = words_module(SFTModule), words_module(SFTModule)
    for each in (student, base):
        each.configure_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.policy.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    return student.policy, base.policy


def answers(examples: Sequence[Example]) -> list[TokenSequence]:
    return [TokenSequence([1, 2, 7 + index], [20 + index] * (1 + index % 3)) for index, _ in enumerate(examples)]


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 8])
def test_micro_batches_add_up_to_the_formula(
    micro_batches: int, general: Any, policies: tuple[Policy, Policy], double: None
) -> None:
    student, base = (each.double() for each in policies)
    loss = RetentionLoss(Retention(general, prompts=5, weight=0.5), lambda _: None)
    group = Group(GENERAL[:8], micro_batches)
    batches = [MicroBatch(group, index) for index in range(micro_batches)]
    total = sum(loss(batch, 3, student, base, answers) for batch in batches) / micro_batches
    assert isinstance(total, torch.Tensor)

    expected = torch.zeros((), dtype=torch.float64)
    for sequence in answers(GENERAL[:5]):
        ours, theirs = (log_probabilities(each.model, sequence.prompt, sequence.completion) for each in policies)
        kl = (theirs.detach().exp() * (theirs.detach() - ours)).sum(-1)
        expected = expected + 0.5 / 5 * kl.mean()
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-12)
    parameters = list(student.parameters())
    ours, theirs = (torch.autograd.grad(each, parameters) for each in (total, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_every_prompt_comes_once_before_one_comes_again_in_another_order(general: Any) -> None:
    loss = RetentionLoss(Retention(general, prompts=5), lambda _: None)
    drawn = [example.id for step in range(24) for example in loss.drawn(Group([]), step)]
    rounds = [drawn[start : start + 12] for start in range(0, 120, 12)]
    assert all(Counter(each) == Counter(example.id for example in GENERAL) for each in rounds)
    assert len(set(map(tuple, rounds))) == 10
    again = RetentionLoss(Retention(general, prompts=5), lambda _: None)
    assert [each.id for each in again.drawn(Group([]), 17)] == drawn[85:90]
    other = RetentionLoss(Retention(general, prompts=5, seed=1), lambda _: None)
    assert [each.id for each in other.drawn(Group([]), 17)] != drawn[85:90]


def test_without_data_the_prompts_are_those_of_the_step() -> None:
    loss = RetentionLoss(Retention(prompts=2), lambda _: None)
    examples = [question(index) for index in range(4)]
    assert loss.drawn(Group(examples), 9) == examples[:2]


@pytest.mark.parametrize(
    "row",
    [
        '{"messages": [{"role": "user", "content": "PROMPT"}, {"role": "assistant", "content": "w50"}]}',
        '{"conversations": [{"from": "human", "value": "PROMPT"}, {"from": "gpt", "value": "w50"}]}',
        '{"prompt": "PROMPT"}',
        '{"question": "PROMPT", "answer": "w50"}',
        '{"instruction": "PROMPT", "input": "", "output": "w50"}',
        "PROMPT,w50",
    ],
)
def test_prompts_are_read_from_a_file(row: str, tmp_path: Path) -> None:
    file = tmp_path / ("general.jsonl" if row.startswith("{") else "general.csv")
    rows = [row.replace("PROMPT", f"w{index}") for index in range(9)]
    file.write_text("\n".join(rows if row.startswith("{") else ["question,answer", *rows]))
    examples = Retention(str(file)).examples()
    assert [each.prompt[0]["content"] for each in examples] == [f"w{index}" for index in range(9)]


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (str, r"correct the path given by retention\.data$"),
        (GeneralDataModule, r"correct the path given by retention\.data\.source$"),
        (JsonDataModule, r"correct the path given by retention\.data\.train$"),
    ],
)
def test_a_missing_file_names_the_setting(kind: Callable[[str], Any], named: str) -> None:
    with pytest.raises(DataError, match=rf"missing\.jsonl: no such file.*{named}"):
        Retention(kind("missing.jsonl")).examples()


@pytest.mark.parametrize("kind", [str, GeneralDataModule])
def test_a_bad_row_names_the_setting_that_leaves_it_out(kind: Callable[[str], Any], tmp_path: Path) -> None:
    file = tmp_path / "general.jsonl"
    file.write_text('{"prompt": "w1"}\n{"prompt": 3}\n')
    with pytest.raises(DataError, match=r"row 2.*\(retention\.data\.on_bad_row=skip leaves such rows out\)"):
        Retention(kind(str(file))).examples()


def test_a_prompt_that_the_tokenizer_refuses_is_named_with_its_row_and_setting(general: Any) -> None:
    def refuse(example: Example) -> str | None:
        raise DataError("no such token")

    with pytest.raises(DataError, match=r"'general-30', in retention\.data: no such token; leave it out of reten"):
        RetentionLoss(Retention(general), refuse)


def test_too_few_or_too_long_prompts_are_refused(general: Any) -> None:
    with pytest.raises(DataError, match=r"has 12 prompts, fewer than retention\.prompts=13"):
        RetentionLoss(Retention(general, prompts=13), lambda _: None)
    with pytest.raises(DataError, match=r"1 of 12 prompts of retention.data are over.*'general-31': too long"):
        RetentionLoss(Retention(general), lambda each: "too long" if each.id == "general-31" else None)
    with pytest.raises(SettingError, match=r"weight=0"):
        Retention(weight=0.0)


def test_settings_are_kept_in_checkpoints_without_the_data_module(general: Any) -> None:
    assert pickle.loads(pickle.dumps(Retention(general, 4, 0.5, ReverseKL()))) == Retention(None, 4, 0.5, ReverseKL())
    assert pickle.loads(pickle.dumps(Retention("prompts.jsonl"))).data == "prompts.jsonl"


class Distance(Callback):
    """How far the student has moved from its start on its own answers to the general prompts."""

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        prompts = pl_module.tokenizer.encode_all([each.prompt for each in GENERAL])
        rollouts = generate(pl_module.policy, prompts, 8, Sampling(), range(len(prompts)))
        self.value = sum(sequence_kl(pl_module.policy, pl_module.base_policy(), rollouts)) / len(rollouts)


@pytest.mark.parametrize("method", [SFTModule, DFTModule, SDFTModule, SequenceDistillationModule])
def test_it_holds_the_student_near_its_start(
    method: type[CausalLMModule], words_module: Any, words_data: Any, make_trainer: Any, general: Any
) -> None:
    values = []
    for retention in (None, Retention(general, prompts=12, weight=10.0)):
        torch.manual_seed(0)
        distance = Distance()
        trainer = make_trainer(callbacks=[distance, KLToBase()], max_steps=16)
        trainer.fit(words_module(method, retention=retention, learning_rate=2e-3), datamodule=words_data())
        values.append(distance.value)
        assert ("retention/loss" in trainer.callback_metrics) == (retention is not None)
    assert values[1] < 0.8 * values[0]


def test_the_students_own_answers_are_read_whatever_the_method_trains_on(
    words_module: Any, words_data: Any, make_trainer: Any, general: Any
) -> None:
    seen: list[Sequence[TokenSequence]] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch.group.retained)

    module = words_module(SDFTModule, rollout_source="demonstration", retention=Retention(general, prompts=4))
    make_trainer(callbacks=[Look()], max_steps=2).fit(module, datamodule=words_data())
    assert len(seen) == 4
    assert seen[0] is seen[1] is not seen[2]
    assert all(isinstance(each, Rollout) for each in seen[0])


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, dropout=0.2, modules_to_save=["norm"])])
def test_resumed_run_equals_the_uninterrupted_one(
    lora: LoRA | None, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path, general: Any
) -> None:
    fixtures = (words_module, words_data, make_trainer, tmp_path)
    check_resume(SDFTModule, 0, *fixtures, lora=lora, retention=Retention(general, prompts=4))


def test_a_resumed_run_does_not_take_its_data_module_for_another_setting(
    words_module: Any,
    words_data: Any,
    make_trainer: Any,
    general: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fit(weight: float, path: Path | None) -> Any:
        module = words_module(SFTModule, retention=Retention(general, prompts=4, weight=weight))
        trainer = make_trainer(max_steps=2 if path is None else 4)
        with caplog.at_level("INFO", logger="lightning"):
            trainer.fit(module, datamodule=words_data(), ckpt_path=path)
        return trainer

    saved = tmp_path / "saved.ckpt"
    fit(1.0, None).save_checkpoint(saved)
    fit(1.0, saved)
    assert "other settings than before" not in caplog.text
    fit(0.5, saved)
    assert "other settings than before: retention" in caplog.text


def test_a_base_of_lora_is_the_policy_itself_and_another_is_loaded_once(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    found: list[Policy] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            found.append(pl_module.base_policy())

    for lora in (None, LoRA(rank=2)):
        module = words_module(SFTModule, lora=lora)
        make_trainer(callbacks=[Look()], max_steps=2).fit(module, datamodule=words_data())
        assert len(set(map(id, found))) == 1
        assert (found[0].model is module.policy.model) == (lora is not None)
        assert not any("base" in name for name in module.state_dict() if "base_" not in name)
        found.clear()
