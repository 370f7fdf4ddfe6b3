from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.callbacks.kl_to_base import sequence_kl
from lightning_sdft.modules.reinvoke import ReinvokeModule
from lightning_sdft.policy import Policy
from lightning_sdft.records import Sampling
from lightning_sdft.rollout import generate
from lightning_sdft.teacher import CopiedTeacher, EMATeacher
from tests.conftest import make_model, make_tokenizer
from tests.modules.conftest import EXAMPLES, STUDENT_PROMPTS, question
from tests.modules.dense import check, reverse_kl, step, token_divergences, weigh


@pytest.fixture
def base(tmp_path: Path) -> str:
    """The base of a student that has moved away from it: other weights of the same shape."""
    make_model("llama", seed=9).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def module(words_module: Callable[..., ReinvokeModule], base: str) -> ReinvokeModule:
    return words_module(ReinvokeModule, teacher=CopiedTeacher(model=base))


def general(count: int = 16) -> list[Any]:
    """Prompts without a demonstration."""
    return [replace(question(index), demonstration=None) for index in range(count)]


def test_loss_is_reverse_kl_from_the_unconditioned_base_on_the_students_own_rollouts(module: ReinvokeModule) -> None:
    module.configure_model()
    module.teacher.policy.model.train()  # stays in eval mode all the same
    torch.manual_seed(0)
    loss, group = step(module, [replace(each, demonstration=None, context=None) for each in EXAMPLES])
    torch.manual_seed(0)
    prompts = [module.tokenizer.encode(example.prompt) for example in EXAMPLES]
    again = generate(module.policy, prompts, module.max_completion_tokens, Sampling())
    assert [rollout.completion for rollout in group.rollouts] == [rollout.completion for rollout in again]
    check(module.policy, loss, weigh(token_divergences(module, group, reverse_kl, STUDENT_PROMPTS), 0, "sequence"))


def test_the_base_stays_as_it_was_and_is_not_the_student(
    module: ReinvokeModule, words_data: Any, make_trainer: Any, family_folder: Callable[[str], Path]
) -> None:
    before = Policy.load(str(family_folder("llama"))).state_dict()
    make_trainer(max_steps=3).fit(module, datamodule=words_data(general()))
    expected = make_model("llama", seed=9).state_dict()
    teacher = module.teacher.policy.model.state_dict()
    assert all(torch.equal(teacher[name], value) for name, value in expected.items())
    student = module.policy.state_dict()
    assert not all(torch.equal(student[name], value) for name, value in before.items())


def test_the_student_comes_back_to_the_base(
    words_module: Callable[..., ReinvokeModule],
    words_data: Any,
    make_trainer: Any,
    family_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    moved = make_model("llama")
    generator = torch.Generator().manual_seed(0)
    for parameter in moved.parameters():
        parameter.data.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    moved.save_pretrained(tmp_path / "moved")
    make_tokenizer().save_pretrained(tmp_path / "moved")
    module = words_module(ReinvokeModule, teacher=CopiedTeacher(model=str(family_folder("llama"))), learning_rate=3e-3)
    module.model = str(tmp_path / "moved")
    examples = general()

    def distance() -> float:
        prompts = [module.tokenizer.encode(example.prompt) for example in examples]
        rollouts = generate(module.policy, prompts, 8, Sampling(), seeds=list(range(len(prompts))))
        values = sequence_kl(module.policy, module.teacher.policy, rollouts)
        return sum(values) / sum(len(rollout.completion) for rollout in rollouts)

    module.configure_model()
    start = distance()
    make_trainer(max_steps=60, max_epochs=-1).fit(
        module, datamodule=words_data(examples, batch_size=16, micro_batch_size=8)
    )
    assert distance() < 0.7 * start


def test_resumed_training_ends_with_the_same_weights(
    words_module: Callable[..., ReinvokeModule], base: str, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    def fit(checkpoint: Path | None = None) -> ReinvokeModule:
        seed_everything(7 if checkpoint is None else 8)
        module = words_module(ReinvokeModule, teacher=CopiedTeacher(model=base))
        save = ModelCheckpoint(tmp_path / "saved", filename="{step}", every_n_train_steps=3, save_top_k=-1)
        trainer = make_trainer(max_steps=6, max_epochs=2, callbacks=[save], enable_checkpointing=True)
        trainer.fit(module, datamodule=words_data(general()), ckpt_path=checkpoint)
        return module

    whole = fit()
    resumed = fit(tmp_path / "saved" / "step=3.ckpt")
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_a_base_that_would_move_is_refused(module: ReinvokeModule, words_data: Any, make_trainer: Any) -> None:
    trainer = make_trainer(callbacks=[EMATeacher()])
    with pytest.raises(ValueError, match="would move the base model"):
        trainer.fit(module, datamodule=words_data(general()))


def test_the_base_has_to_be_named() -> None:
    with pytest.raises(TypeError, match="teacher"):
        ReinvokeModule("zoo/laptop")
    with pytest.raises(ValueError, match="needs the base model"):
        ReinvokeModule("zoo/laptop", CopiedTeacher())
