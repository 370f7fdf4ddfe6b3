from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback

from lightning_sdft.data.groups import Item, MicroBatch
from lightning_sdft.data.templates import AUTHORS_TEMPLATE
from lightning_sdft.losses import Divergence, ForwardKL, JensenShannon, ReverseKL
from lightning_sdft.modules import DistillationModule, SDFTModule
from lightning_sdft.records import Example, Sampling, TokenSequence
from lightning_sdft.teacher import CopiedTeacher
from tests.conftest import STOP_IDS
from tests.modules.conftest import EXAMPLES, SHOWN, STUDENT_PROMPTS, TEACHER_PROMPTS, ready
from tests.modules.dense import (
    check,
    forward_kl,
    jensen_shannon,
    log_probabilities,
    reverse_kl,
    step,
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
    loss, group = step(module, EXAMPLES)
    lengths = [len(rollout.completion) for rollout in group.rollouts]
    assert min(lengths) <= 2 < max(lengths)  # one sequence is skipped as a whole
    assert {rollout.finished for rollout in group.rollouts} == {True, False}
    check(module.policy, loss, weigh(token_divergences(module, group, dense, TEACHER_PROMPTS), skip, reduction))


@pytest.mark.parametrize("own", [{"loss_temperature": 1.5}, {"loss_temperature": 2.0, "teacher_temperature": 0.5}])
@pytest.mark.parametrize(("divergence", "dense"), [(ForwardKL(), forward_kl), (JensenShannon(0.3), jensen_shannon)])
def test_temperatures_of_the_loss_are_apart_from_that_of_the_rollouts(
    own: dict[str, float], divergence: Divergence, dense: Any, words_module: Callable[..., DistillationModule]
) -> None:
    arguments = {**SHOWN, "divergence": divergence, **own}
    module = ready(words_module(DistillationModule, sampling=Sampling(temperature=0.7), **arguments))
    torch.manual_seed(0)
    loss, group = step(module, EXAMPLES)
    check(module.policy, loss, weigh(token_divergences(module, group, dense, TEACHER_PROMPTS), 0, "sequence"))
    plain = ready(words_module(DistillationModule, sampling=Sampling(temperature=0.7), **SHOWN))
    torch.manual_seed(0)
    assert step(plain, EXAMPLES)[1].rollouts == group.rollouts


class Scheduled(ForwardKL):
    """Forward KL that notes the steps it is asked for."""

    asked: ClassVar[list[int]] = []

    def at(self, step: int) -> Divergence:
        self.asked.append(step)
        return ForwardKL()


def test_a_divergence_with_a_schedule_is_that_of_the_optimizer_step(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    torch.serialization.add_safe_globals([Scheduled])
    make_trainer(max_steps=3).fit(words_module(SDFTModule, divergence=Scheduled()), datamodule=words_data())
    assert Scheduled.asked == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_micro_batches_of_ragged_rollouts_add_up_to_their_group(
    reduction: Any, words_module: Callable[..., DistillationModule]
) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, skip_tokens=1, reduction=reduction))
    torch.manual_seed(1)
    loss, group = step(module, EXAMPLES, 2)
    lengths = [len(rollout.completion) for rollout in group.rollouts]
    assert sum(lengths[:2]) != sum(lengths[2:])
    check(module.policy, loss, weigh(token_divergences(module, group, forward_kl, TEACHER_PROMPTS), 1, reduction))


def test_default_is_the_published_setting(words_module: Callable[..., DistillationModule]) -> None:
    module = SDFTModule(words_module(DistillationModule).model)
    assert module.divergence == ForwardKL()
    assert (module.skip_tokens, module.reduction, module.rollout_source) == (3, "sequence", "student")
    assert (module.teacher_choice, module.teacher_template) == (CopiedTeacher(), AUTHORS_TEMPLATE)
    assert module.sampling == Sampling(temperature=1.0)


def test_weights_leave_out_exactly_the_first_completion_tokens(words_module: Callable[..., DistillationModule]) -> None:
    module = words_module(DistillationModule, skip_tokens=2)
    sequences = [TokenSequence([1, 2, 3], list(range(length))) for length in (4, 1, 3)]
    batch = MicroBatch.of(EXAMPLES[:3])
    batch.group.fill(list(map(Item, EXAMPLES, sequences)), tokens=3)
    expected = [0, 0, 1 / 6, 1 / 6, 0, 0, 0, 1 / 3]  # of one sequence behind another
    torch.testing.assert_close(module.weights(batch), torch.tensor(expected))


def test_diagnostics_are_means_over_counted_tokens(words_module: Callable[..., DistillationModule]) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, skip_tokens=1, divergence=ReverseKL()))
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign,assignment]
    torch.manual_seed(0)
    _, group = step(module, EXAMPLES, 2)

    def token_mean(quantity: Any) -> float:
        return (
            torch.cat([part[1:] for part in token_divergences(module, group, quantity, TEACHER_PROMPTS)]).mean().item()
        )

    expected = {
        "teacher/kl": token_mean(forward_kl),
        "student/entropy": token_mean(lambda student, _: -(student.exp() * student).sum(-1)),
        "teacher/entropy": token_mean(lambda _, teacher: -(teacher.exp() * teacher).sum(-1)),
        "teacher/agreement": token_mean(lambda student, teacher: (student.argmax(-1) == teacher.argmax(-1)).float()),
        "train/loss": weigh(token_divergences(module, group, reverse_kl, TEACHER_PROMPTS), 1, "sequence").item(),
        "rollout/length": sum(len(rollout.completion) for rollout in group.rollouts) / 4,
        "rollout/truncated": sum(not rollout.finished for rollout in group.rollouts) / 4,
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
    rollouts = module.sample(many)
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
    loss, group = step(module, EXAMPLES)
    check(module.policy, loss, weigh(token_divergences(module, group, forward_kl, TEACHER_PROMPTS), 0, "sequence"))


def test_demonstrations_can_take_the_place_of_rollouts(words_module: Callable[..., DistillationModule]) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, rollout_source="demonstration"))
    loss, group = step(module, EXAMPLES)
    expected = ["w21 w22 w23 <end>", "w28 w29 <end>", "w31 <end>", "w32 w33 <end>"]
    assert [rollout.completion for rollout in group.rollouts] == [token_ids(text) for text in expected]
    assert all(rollout.finished for rollout in group.rollouts)
    check(module.policy, loss, weigh(token_divergences(module, group, forward_kl, TEACHER_PROMPTS), 0, "sequence"))


class Groups(Callback):
    """Keeps each micro-batch that was trained on."""

    def __init__(self) -> None:
        self.batches: list[MicroBatch] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)


def test_the_group_is_sampled_once_per_optimizer_step(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    groups = Groups()
    trainer = make_trainer(callbacks=[groups], max_steps=3, accumulate_grad_batches=4)
    module = words_module(SDFTModule)
    trainer.fit(module, datamodule=words_data(batch_size=8, micro_batch_size=2))
    assert len(groups.batches) == 12
    for first in (0, 4, 8):
        batches = groups.batches[first : first + 4]
        assert all(batch.group is batches[0].group for batch in batches)
        assert len(batches[0].group.rollouts) == 8
        assert [rollout for batch in batches for rollout in batch.rollouts] == batches[0].group.rollouts
    assert groups.batches[0].group is not groups.batches[4].group
    for batch in groups.batches:
        prompts = [module.tokenizer.encode(item.example.prompt) for item in batch.items]
        assert [rollout.prompt for rollout in batch.rollouts] == prompts
