"""Training in each of Lightning's precisions, with each form of teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lightning_sdft.modules import DistillationModule, SDFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.teacher import FORMS, CopiedTeacher, EMATeacher
from tests.conftest import FAMILIES, needs_gpu
from tests.modules.conftest import SHOWN, WORDS_TEMPLATE, Watch
from tests.teacher.conftest import jump, same, weights

PRECISIONS = ["32-true", "bf16-mixed", "bf16-true"]

STUDENT = {"32-true": torch.float32, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16}


class Jump(Callback):
    """Moves the student once, behind the start of the teacher, and asks where both were and are at the end."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = weights(pl_module.teacher)
        jump(pl_module.policy, 0.02)
        self.student = weights(pl_module.policy)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        assert same(weights(pl_module.policy), self.student)
        self.end = weights(pl_module.teacher)

    @property
    def closed(self) -> list[float]:
        """Share of the gap that each weight tensor of the teacher has closed."""
        gaps = zip(self.start, self.end, self.student, strict=True)
        return [float((end - start).abs().sum() / (there - start).abs().sum()) for start, end, there in gaps]


@pytest.mark.parametrize("memory", FORMS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_fifty_updates_close_the_gap(
    precision: Any, memory: Any, words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    # Towards a student that has jumped once and stands still: 1 - 0.99^50 = 39.5%.
    module = words_module(
        DistillationModule, **SHOWN, rollout_source="demonstration", teacher=CopiedTeacher(memory), learning_rate=0.0
    )
    move = Jump()
    options = {"accumulate_grad_batches": 1, "max_steps": 50, "max_epochs": 50, "precision": precision}
    trainer = make_trainer(callbacks=[move, EMATeacher(0.01)], **options)
    trainer.fit(module, datamodule=words_data(batch_size=2, micro_batch_size=2))
    assert trainer.global_step == 50
    assert {parameter.dtype for parameter in module.policy.parameters()} == {STUDENT[precision]}
    assert move.closed == pytest.approx([1 - 0.99**50] * len(move.closed), abs=0.003)


def test_first_losses_are_close_to_those_in_float32(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    losses: dict[str, dict[str, float]] = {}
    for precision in PRECISIONS:
        for memory in FORMS:
            watch = Watch()
            module = words_module(
                DistillationModule, **SHOWN, rollout_source="demonstration", teacher=CopiedTeacher(memory)
            )
            make_trainer(callbacks=[watch], max_steps=1, precision=precision).fit(module, datamodule=words_data())
            losses.setdefault(precision, {})[memory] = watch.losses[0]
    exact = losses["32-true"]["float32"]
    assert exact > 1
    for each in losses.values():
        assert each["offload"] == each["float32"]
        # Weights have 8 bits in bfloat16, and the loss is a sum over some hundred products of them.
        assert list(each.values()) == pytest.approx([exact] * 3, rel=0.02)
    assert len({value for each in losses.values() for value in each.values()}) == 6


def test_float16_on_a_cpu_is_bfloat16(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    with pytest.warns(UserWarning, match="fp16 is not supported on CPU. Using `precision='bf16-mixed'`"):
        trainer = make_trainer(callbacks=[EMATeacher()], max_steps=2, precision="16-mixed")
    assert trainer.precision == "bf16-mixed"
    module = words_module()
    trainer.fit(module, datamodule=words_data())
    assert {parameter.dtype for parameter in module.policy.parameters()} == {torch.float32}


def test_rotary_frequencies_stay_exact_in_bfloat16(
    family: str, family_folder: Callable[[str], Path], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    folder = str(family_folder(family))
    exact = {name: buffer for name, buffer in Policy.load(folder).named_buffers() if "inv_freq" in name}
    assert exact or family == "gpt2"  # which has learned positions

    def check(module: SDFTModule) -> None:
        for name, buffer in exact.items():
            for policy in (module.policy, module.teacher.policy):
                assert torch.equal(policy.get_buffer(name), buffer), name

    budgets = {"max_prompt_tokens": 16, "max_completion_tokens": 4, "max_teacher_prompt_tokens": 32}
    # Each form with frequencies of one kind and of two, and each family with a form.
    index = list(FAMILIES).index(family) % len(FORMS)
    for memory in FORMS if family in ("llama", "gemma3") else list(FORMS)[index : index + 1]:
        checkpoint = None
        for step in (1, 2):  # the second of which goes on from a checkpoint
            module = SDFTModule(folder, teacher_template=WORDS_TEMPLATE, teacher=CopiedTeacher(memory), **budgets)
            trainer = make_trainer(max_steps=step, precision="bf16-true", accumulate_grad_batches=1)
            trainer.fit(module, datamodule=words_data(batch_size=2), ckpt_path=checkpoint)
            checkpoint = tmp_path / f"{memory}.ckpt"
            trainer.save_checkpoint(checkpoint)
            assert module.policy.model.dtype == torch.bfloat16
            check(module)
            check(module.to(torch.float16))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("memory", FORMS)
@pytest.mark.parametrize("precision", [*PRECISIONS, "16-mixed"])
def test_on_a_gpu(precision: Any, memory: Any, words_module: Any, words_data: Any, make_trainer: Any) -> None:
    module, move = words_module(teacher=CopiedTeacher(memory), learning_rate=0.0, max_completion_tokens=2), Jump()
    options = {"accelerator": "gpu", "accumulate_grad_batches": 1, "max_steps": 100, "max_epochs": 100}
    trainer = make_trainer(callbacks=[move, EMATeacher(0.01)], precision=precision, **options)
    trainer.fit(module, datamodule=words_data(batch_size=2, micro_batch_size=2))
    assert move.closed == pytest.approx([1 - 0.99**100] * len(move.closed), abs=0.005)
