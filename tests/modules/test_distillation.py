from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.data.templates import AUTHORS_TEMPLATE
from lightning_sdft.losses import Divergence, ForwardKL, JensenShannon, ReverseKL
from lightning_sdft.modules import DistillationModule, SDFTModule
from lightning_sdft.records import Example, Rollout, Sampling
from tests.conftest import STOP_IDS
from tests.modules.conftest import EXAMPLES, SHOWN, STUDENT_PROMPTS, TEACHER_PROMPTS, ready
from tests.modules.dense import (
    check,
    forward_kl,
    jensen_shannon,
    log_probabilities,
    mean,
    reverse_kl,
    token_divergences,
    token_ids,
    weigh,
)

# The loss


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("reduction", ["sequence", "token"])
@pytest.mark.parametrize(
    ("divergence", "dense"),
    [(ForwardKL(), forward_kl), (ReverseKL(), reverse_kl), (JensenShannon(0.3), jensen_shannon)],
)
def test_loss_and_gradient_equal_the_divergence_of_the_whole_logits(
    divergence: Divergence, dense: Any, reduction: Any, skip: int, words_module: Callable[..., DistillationModule]
) -> None:
    arguments = {**SHOWN, "divergence": divergence, "reduction": reduction, "skip_tokens": skip}
    module = ready(words_module(DistillationModule, sampling=Sampling(temperature=0.7), **arguments))
    torch.manual_seed(0)
    loss = module.training_step(EXAMPLES, 0)
    lengths = [len(rollout.completion) for rollout in module.group_rollouts]
    assert min(lengths) <= 2 < max(lengths)  # one sequence is skipped as a whole
    assert {rollout.finished for rollout in module.group_rollouts} == {True, False}
    check(module.policy, loss, weigh(token_divergences(module, dense, TEACHER_PROMPTS), skip, reduction))


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_micro_batches_of_ragged_rollouts_add_up_to_their_group(
    reduction: Any, words_module: Callable[..., DistillationModule]
) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, skip_tokens=1, reduction=reduction))
    torch.manual_seed(1)
    loss = mean(module.training_step(batch, 0) for batch in MicroBatch.cut(EXAMPLES, 2))
    lengths = [len(rollout.completion) for rollout in module.group_rollouts]
    assert sum(lengths[:2]) != sum(lengths[2:])
    check(module.policy, loss, weigh(token_divergences(module, forward_kl, TEACHER_PROMPTS), 1, reduction))


def test_default_is_the_published_setting(words_module: Callable[..., DistillationModule]) -> None:
    module = SDFTModule(words_module(DistillationModule).model)
    assert module.divergence == ForwardKL()
    assert (module.skip_tokens, module.reduction, module.rollout_source) == (3, "sequence", "student")
    assert (module.teacher_kind, module.teacher_template) == ("copy", AUTHORS_TEMPLATE)
    assert module.sampling == Sampling(temperature=1.0)


def test_weights_leave_out_exactly_the_first_completion_tokens(words_module: Callable[..., DistillationModule]) -> None:
    module = words_module(DistillationModule, skip_tokens=2)
    rollouts = [Rollout([1, 2, 3], list(range(length)), [0.0] * length, True) for length in (4, 1, 3)]
    module.group_rollouts = rollouts
    expected = [0, 0, 1 / 6, 1 / 6, 0, 0, 0, 1 / 3]  # of one sequence behind another
    torch.testing.assert_close(module.weights(rollouts), torch.tensor(expected))


def test_diagnostics_are_means_over_counted_tokens(words_module: Callable[..., DistillationModule]) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, skip_tokens=1, divergence=ReverseKL()))
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign,assignment]
    torch.manual_seed(0)
    for batch in MicroBatch.cut(EXAMPLES, 2):
        module.training_step(batch, 0)

    def token_mean(quantity: Any) -> float:
        return torch.cat([part[1:] for part in token_divergences(module, quantity, TEACHER_PROMPTS)]).mean().item()

    expected = {
        "teacher/kl": token_mean(forward_kl),
        "student/entropy": token_mean(lambda student, _: -(student.exp() * student).sum(-1)),
        "teacher/entropy": token_mean(lambda _, teacher: -(teacher.exp() * teacher).sum(-1)),
        "teacher/agreement": token_mean(lambda student, teacher: (student.argmax(-1) == teacher.argmax(-1)).float()),
        "train/loss": weigh(token_divergences(module, reverse_kl, TEACHER_PROMPTS), 1, "sequence").item(),
        "rollout/length": sum(len(rollout.completion) for rollout in module.group_rollouts) / 4,
        "rollout/truncated": sum(not rollout.finished for rollout in module.group_rollouts) / 4,
    }
    assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert logged["rollout/tokens_per_second"] > 0


# Rollouts


def test_completions_stop_at_the_first_end_token_and_hold_nothing_of_the_prompt(
    words_module: Callable[..., DistillationModule],
) -> None:
    module = ready(words_module(DistillationModule))
    torch.manual_seed(0)
    many = [Example(str(index), EXAMPLES[index % 4].prompt) for index in range(40)]
    rollouts = module.rollouts(MicroBatch.of(many))
    for index, rollout in enumerate(rollouts):
        assert rollout.prompt == token_ids(STUDENT_PROMPTS[index % 4])
        ends = [position for position, token in enumerate(rollout.completion) if token in STOP_IDS]
        assert ends == ([len(rollout.completion) - 1] if rollout.finished else [])
        assert rollout.finished or len(rollout.completion) == module.max_completion_tokens
    assert {rollout.finished for rollout in rollouts} == {True, False}


@pytest.mark.parametrize("source", ["student", "teacher"])
def test_rollouts_come_from_whom_was_asked_for(source: Any, words_module: Callable[..., DistillationModule]) -> None:
    greedy = Sampling(temperature=0)
    module = ready(words_module(DistillationModule, **SHOWN, rollout_source=source, sampling=greedy))
    rollouts = module.sample(EXAMPLES)
    writers = {
        "student": (module.policy.model, STUDENT_PROMPTS),
        "teacher": (module.teacher.policy.model, TEACHER_PROMPTS),
    }
    agrees = {}
    for writer, (model, prompts) in writers.items():
        greedy_tokens = [
            log_probabilities(model, token_ids(prompt), rollout.completion).argmax(-1).tolist()
            for prompt, rollout in zip(prompts, rollouts, strict=True)
        ]
        agrees[writer] = greedy_tokens == [rollout.completion for rollout in rollouts]
    assert agrees == {writer: writer == source for writer in writers}
    assert [rollout.prompt for rollout in rollouts] == [token_ids(prompt) for prompt in writers[source][1]]


def test_teachers_rollouts_are_learned_behind_the_students_prompt(
    words_module: Callable[..., DistillationModule],
) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, rollout_source="teacher"))
    loss = module.training_step(EXAMPLES, 0)
    check(module.policy, loss, weigh(token_divergences(module, forward_kl, TEACHER_PROMPTS), 0, "sequence"))


def test_demonstrations_can_take_the_place_of_rollouts(words_module: Callable[..., DistillationModule]) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, rollout_source="demonstration"))
    loss = module.training_step(EXAMPLES, 0)
    expected = ["w21 w22 w23 <end>", "w28 w29 <end>", "w31 <end>", "w32 w33 <end>"]
    assert [rollout.completion for rollout in module.group_rollouts] == [token_ids(text) for text in expected]
    assert all(rollout.finished for rollout in module.group_rollouts)
    check(module.policy, loss, weigh(token_divergences(module, forward_kl, TEACHER_PROMPTS), 0, "sequence"))


class Groups(Callback):
    """Keeps what was trained on at each micro-batch."""

    def __init__(self) -> None:
        self.rollouts: list[Any] = []
        self.batches: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rollouts.append(pl_module.group_rollouts)
        self.batches.append(batch)


def test_the_group_is_sampled_once_per_optimizer_step(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    groups = Groups()
    trainer = make_trainer(callbacks=[groups], max_steps=3, accumulate_grad_batches=4)
    trainer.fit(words_module(SDFTModule), datamodule=words_data(batch_size=8, micro_batch_size=2))
    assert len(groups.rollouts) == 12
    for step in range(3):
        micro_batches = groups.rollouts[4 * step : 4 * step + 4]
        assert all(rollouts is micro_batches[0] for rollouts in micro_batches)
        assert len(micro_batches[0]) == 8
    assert groups.rollouts[0] is not groups.rollouts[4]
    for index, batch in enumerate(groups.batches):
        part = groups.rollouts[index][batch.start : batch.stop]
        prompts = [words_module(SDFTModule).tokenizer.encode(example.prompt) for example in batch]
        assert [rollout.prompt for rollout in part] == prompts
