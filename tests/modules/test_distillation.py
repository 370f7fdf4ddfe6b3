from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_sdft.callbacks import EMATeacher
from lightning_sdft.data.example import DataError, Example
from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.data.templates import AUTHORS_TEMPLATE, PAPER_TEMPLATE, TEMPLATES, PrivilegedContext
from lightning_sdft.losses import Divergence, ForwardKL, JensenShannon, ReverseKL
from lightning_sdft.modules import DistillationModule, SDFTModule
from lightning_sdft.rollout import Rollout, Sampling
from tests.conftest import STOP_IDS, make_model, make_tokenizer
from tests.modules.conftest import WORDS_TEMPLATE
from tests.modules.dense import check, log_probabilities, mean, token_ids

EXAMPLES = [
    Example("a", [{"role": "user", "content": "w1 w2"}], "w21 w22 w23", context="w54 w56"),
    Example("b", [{"role": "system", "content": "w4"}, {"role": "user", "content": "w6 w7 w8"}], "w28 w29", "w57"),
    Example("c", [{"role": "user", "content": "w3"}], "w31", context="w54 w58 w1"),
    Example("d", [{"role": "user", "content": "w8 w9"}], "w32 w33", context="w2"),
]

STUDENT_PROMPTS = [
    "<user> w1 w2 <end> <assistant>",
    "<system> w4 <end> <user> w6 w7 w8 <end> <assistant>",
    "<user> w3 <end> <assistant>",
    "<user> w8 w9 <end> <assistant>",
]

TEACHER_PROMPTS = [
    "<user> w50 w1 w2 w51 w21 w22 w23 w52 <end> <assistant>",
    "<system> w4 <end> <user> w50 w6 w7 w8 w51 w28 w29 w52 <end> <assistant>",
    "<user> w50 w3 w51 w31 w52 <end> <assistant>",
    "<user> w50 w8 w9 w51 w32 w33 w52 <end> <assistant>",
]

SHOWN = {"privileged_context": "demonstration", "teacher_template": WORDS_TEMPLATE}


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - student)).sum(-1)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.exp() * (student - teacher)).sum(-1)


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    mixture = (0.7 * student.exp() + 0.3 * teacher.exp()).log()
    return 0.3 * forward_kl(mixture, teacher) + 0.7 * reverse_kl(student, mixture)


def ready(module: DistillationModule) -> DistillationModule:
    """A module that can step, whose teacher has weights of its own."""
    module.configure_model()
    if module.teacher_kind == "copy":
        generator = torch.Generator().manual_seed(1)
        for parameter in module.teacher.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def token_divergences(module: DistillationModule, divergence: Any, teacher_prompts: list[str]) -> list[Tensor]:
    """Of each completion token of the sampled rollouts, a tensor per sequence."""
    parts = []
    temperature = module.sampling.temperature or 1.0
    for rollout, prompt, teacher_prompt in zip(module.group_rollouts, STUDENT_PROMPTS, teacher_prompts, strict=True):
        student = log_probabilities(module.policy.model, token_ids(prompt), rollout.completion, temperature)
        with torch.no_grad():
            teacher = log_probabilities(
                module.teacher.policy.model, token_ids(teacher_prompt), rollout.completion, temperature
            )
        parts.append(divergence(student, teacher))
    return parts


def weigh(parts: list[Tensor], skip: int, reduction: str) -> Tensor:
    """Mean over the tokens behind the first ``skip``: of all sequences, or of each and then over sequences."""
    if reduction == "token":
        return torch.cat([part[skip:] for part in parts]).mean()
    return mean(part[skip:].mean() if len(part) > skip else 0 * part.sum() for part in parts)


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
    loss = mean(module.training_step(MicroBatch(EXAMPLES, start, start + 2), 0) for start in (0, 2))
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
    for start in (0, 2):
        module.training_step(MicroBatch(EXAMPLES, start, start + 2), 0)

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


# Who sees what

PRIVILEGED: dict[PrivilegedContext, tuple[str | None, str]] = {
    "demonstration": (WORDS_TEMPLATE, "w50 w1 w2 w51 w21 w22 w23 w52"),
    "article": ("{context} w53 {prompt}", "w54 w56 w53 w1 w2"),
    "both": ("{context} w53 {prompt} w51 {demonstration}", "w54 w56 w53 w1 w2 w51 w21 w22 w23"),
    "none": (None, "w1 w2"),
}


@pytest.mark.parametrize("context", PRIVILEGED)
def test_teacher_sees_the_privileged_context_and_the_student_does_not(
    context: PrivilegedContext, words_module: Callable[..., DistillationModule]
) -> None:
    template, seen = PRIVILEGED[context]
    module = words_module(DistillationModule, privileged_context=context, teacher_template=template)
    rollouts = [Rollout([], [7, 8], [0.0, 0.0], False)]
    (teacher,) = module.teacher_sequences(EXAMPLES[:1], rollouts)
    (student,) = module.student_sequences(EXAMPLES[:1], rollouts)
    assert teacher.prompt == token_ids(f"<user> {seen} <end> <assistant>")
    assert student.prompt == token_ids("<user> w1 w2 <end> <assistant>")
    assert teacher.completion == student.completion == [7, 8]


@pytest.mark.parametrize("context", PRIVILEGED)
def test_default_template_shows_just_the_privileged_context(
    context: PrivilegedContext, words_module: Callable[..., DistillationModule]
) -> None:
    module = words_module(DistillationModule, privileged_context=context)
    assert module.teacher_template == TEMPLATES[context]
    (message,) = module.teacher_messages(EXAMPLES[0])
    assert "w1 w2" in message["content"]
    assert ("w21 w22 w23" in message["content"]) == (context in ("demonstration", "both"))
    assert ("w54 w56" in message["content"]) == (context in ("article", "both"))


def test_system_turn_stays_in_front_of_the_teachers_prompt(words_module: Callable[..., DistillationModule]) -> None:
    system, user = words_module(DistillationModule, **SHOWN).teacher_messages(EXAMPLES[1])
    assert system == {"role": "system", "content": "w4"}
    assert user == {"role": "user", "content": "w50 w6 w7 w8 w51 w28 w29 w52"}
    assert EXAMPLES[1].prompt[-1]["content"] == "w6 w7 w8"


def test_template_must_agree_with_the_privileged_context(words_module: Callable[..., DistillationModule]) -> None:
    with pytest.raises(ValueError, match=r"privileged_context=both calls for.*'context', 'demonstration', 'prompt'"):
        words_module(DistillationModule, privileged_context="both", teacher_template=PAPER_TEMPLATE)
    with pytest.raises(ValueError, match="privileged_context=none calls for"):
        words_module(DistillationModule, teacher_template=WORDS_TEMPLATE)


@pytest.mark.parametrize(
    ("arguments", "lacks"),
    [
        (SHOWN, "demonstration"),
        ({"privileged_context": "article", "teacher_template": "{context} {prompt}"}, "context"),
        ({"rollout_source": "demonstration"}, "demonstration"),
    ],
)
@pytest.mark.parametrize("empty", [None, ""])
def test_example_without_what_the_teacher_sees_is_named_before_training(
    arguments: dict[str, Any],
    lacks: str,
    empty: str | None,
    words_module: Callable[..., DistillationModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    lacking = Example("bare", EXAMPLES[0].prompt, **{"demonstration": "w1", "context": "w2", lacks: empty})
    with pytest.raises(DataError, match=f"example 'bare' has no {lacks}, which DistillationModule learns from"):
        make_trainer().fit(words_module(DistillationModule, **arguments), words_data([*EXAMPLES, lacking]))


def test_without_privileged_context_prompts_suffice(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    bare = [Example(str(index), EXAMPLES[index % 4].prompt) for index in range(4)]
    trainer = make_trainer(max_steps=1)
    trainer.fit(words_module(DistillationModule), datamodule=words_data(bare))
    assert trainer.global_step == 1


def test_teacher_prompt_over_its_budget_is_named_with_both_lengths(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN, max_teacher_prompt_tokens=10)
    message = (
        r"1 of 4 examples.* 'b': its teacher prompt has 14 tokens \(9 of them the prompt itself\), "
        "max_teacher_prompt_tokens=10"
    )
    short = [Example(each.id, each.prompt, each.demonstration) for each in (*EXAMPLES[1:], question_of_one_word())]
    with pytest.raises(DataError, match=message):
        make_trainer().fit(module, datamodule=words_data(short))


def question_of_one_word() -> Example:
    return Example("one word", [{"role": "user", "content": "w1"}], "w2")


def test_demonstration_over_the_completion_budget_is_named_where_it_is_trained_on(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    arguments = {"rollout_source": "demonstration", "max_completion_tokens": 3}
    with pytest.raises(DataError, match="'a': its demonstration has 4 tokens, max_completion_tokens=3"):
        make_trainer().fit(words_module(DistillationModule, **arguments), datamodule=words_data(EXAMPLES))
    trainer = make_trainer(max_steps=1)  # but as privileged context it may be longer than what the student writes
    trainer.fit(words_module(DistillationModule, **SHOWN, max_completion_tokens=3), datamodule=words_data(EXAMPLES))
    assert trainer.global_step == 1


# The teacher


def weights_of(policy: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone().float() for name, value in policy.state_dict().items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_copied_teacher_is_frozen_in_eval_mode_and_gets_no_gradient(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN)
    trainer = make_trainer(max_steps=2)
    trainer.fit(module, datamodule=words_data())
    module.train()
    assert not any(part.training for part in module.teacher.modules())
    assert all(part.training for part in module.policy.modules())
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert not {id(p) for p in module.teacher.parameters()} & {id(p) for p in module.policy.parameters()}


def test_live_teacher_is_the_student_and_no_gradient_flows_through_it(
    words_module: Callable[..., DistillationModule],
) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, teacher="live", divergence=ReverseKL()))
    assert module.teacher.policy is module.policy
    assert not [name for name in module.state_dict() if name.startswith("teacher")]
    torch.manual_seed(0)
    loss = module.training_step(EXAMPLES, 0)
    assert all(part.training for part in module.policy.modules())
    assert all(parameter.requires_grad for parameter in module.policy.parameters())
    check(module.policy, loss, weigh(token_divergences(module, reverse_kl, TEACHER_PROMPTS), 0, "sequence"))


def test_live_teacher_follows_the_student(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN, teacher="live")
    make_trainer(max_steps=2).fit(module, datamodule=words_data())
    assert module.teacher.policy is module.policy
    assert module.teacher.drift(module.policy) == 0


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """Another model of the same vocabulary."""
    make_model("gpt2", seed=5).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_teacher_can_start_from_another_model(
    other_folder: Path, words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN, teacher_model=str(other_folder))
    make_trainer(max_steps=2).fit(module, datamodule=words_data())
    expected = make_model("gpt2", seed=5).state_dict()
    ours = module.teacher.policy.model.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


def test_live_teacher_cannot_start_from_another_model(words_module: Callable[..., DistillationModule]) -> None:
    with pytest.raises(ValueError, match="teacher=live is the student itself and cannot start from teacher_model=x"):
        words_module(DistillationModule, teacher="live", teacher_model="x")


class StartOfTraining(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.student, self.teacher = weights_of(pl_module.policy), weights_of(pl_module.teacher.policy)


def test_teacher_starts_from_the_student_as_it_is_when_fit_starts(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN)
    module.configure_model()
    before = weights_of(module.policy)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.add_(0.1)
    first = StartOfTraining()
    make_trainer(max_steps=2, callbacks=[first]).fit(module, datamodule=words_data())
    assert same(first.teacher, first.student)
    assert not same(first.teacher, before)
    assert same(weights_of(module.teacher.policy), first.teacher)  # it is frozen
    trained = weights_of(module.policy)
    assert not same(trained, first.student)

    second = StartOfTraining()  # the next stage of continual learning
    make_trainer(max_steps=2, callbacks=[second]).fit(module, datamodule=words_data())
    assert same(second.teacher, trained)


def test_resumed_run_keeps_the_teacher_of_the_checkpoint(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    module = words_module(DistillationModule, **SHOWN)
    trainer = make_trainer(max_steps=2, callbacks=[EMATeacher(0.3)])
    trainer.fit(module, datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    student, teacher = weights_of(module.policy), weights_of(module.teacher.policy)
    assert not same(student, teacher)
    start = StartOfTraining()
    make_trainer(max_steps=3, callbacks=[EMATeacher(0.3), start]).fit(
        words_module(DistillationModule, **SHOWN), datamodule=words_data(), ckpt_path=tmp_path / "two.ckpt"
    )
    assert same(start.student, student)
    assert same(start.teacher, teacher)


@pytest.mark.parametrize(
    ("arguments", "callbacks", "times"),
    [({}, [], 1), ({}, [EMATeacher()], 0), ({"teacher": "live"}, [], 0)],
)
def test_says_once_that_a_copied_teacher_without_callback_is_frozen(
    arguments: dict[str, Any],
    callbacks: list[Callback],
    times: int,
    words_module: Callable[..., DistillationModule],
    words_data: Any,
    make_trainer: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        trainer = make_trainer(max_steps=2, callbacks=callbacks)
        trainer.fit(words_module(DistillationModule, **SHOWN, **arguments), datamodule=words_data())
    assert caplog.text.count("the teacher stays frozen") == times


def test_unknown_divergence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"beta=1.0 is not within \(0, 1\); for the ends use ForwardKL, ReverseKL"):
        JensenShannon(1.0)


def test_drift_is_the_relative_distance(words_module: Callable[..., DistillationModule]) -> None:
    module = words_module(DistillationModule)
    module.configure_model()
    assert module.teacher.drift(module.policy) == 0
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.mul_(2)
    assert math.isclose(module.teacher.drift(module.policy), 0.5, rel_tol=1e-6)
