from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_sdft import inspect_rollouts
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.inspection import RolloutLook
from lightning_sdft.losses import ReverseKL
from lightning_sdft.modules import DistillationModule, SDFTModule, SDPOModule, SFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import STUDENT, TEACHER, LoRA, adapted_layers, using_adapter
from lightning_sdft.records import GREEDY, Example, Sampling
from lightning_sdft.rollout import generate
from lightning_sdft.teacher import BaseTeacher, CopiedTeacher, LiveTeacher, TrustRegionTeacher
from tests.conftest import STOP_IDS, VOCABULARY, move_adapter
from tests.modules.conftest import EXAMPLES, SHOWN, STUDENT_PROMPTS, TEACHER_PROMPTS, question
from tests.modules.dense import forward_kl, log_probabilities, token_ids
from tests.modules.test_sdpo import Short

LORA = LoRA(rank=3, target_modules=["q_proj", "lm_head"])
SHARE = 0.4


def ready(module: Any) -> Any:
    """A module whose teacher is another model than its student."""
    module.configure_model()
    if module.lora is not None:
        move_adapter(module.policy.model)
        move_adapter(module.policy.model, TEACHER, seed=1)
        return module
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.policy.parameters():
            weight.mul_(1 + 0.3 * torch.randn(weight.shape, generator=generator))
    return module


def completion(look: RolloutLook) -> list[int]:
    return [VOCABULARY.index(token.text.strip()) for token in look.tokens]


def check(look: RolloutLook, student: Tensor, teacher: Tensor) -> None:
    """Compare what is shown with log-probabilities `(N, V)` of both models."""
    expected = {"kl": forward_kl(student, teacher)}
    for name, each in (("student", student), ("teacher", teacher)):
        expected[f"{name}_entropy"] = -(each.exp() * each).sum(-1)
        tops = each.exp().topk(5)
        for token, probabilities, ids in zip(look.tokens, tops.values, tops.indices, strict=True):
            shown = getattr(token, name)
            assert [candidate.text.strip() for candidate in shown] == [VOCABULARY[word] for word in ids]
            found = torch.tensor([candidate.probability for candidate in shown])
            torch.testing.assert_close(found, probabilities, rtol=1e-4, atol=1e-5)
    for name, values in expected.items():
        found = torch.tensor([getattr(token, name) for token in look.tokens])
        torch.testing.assert_close(found, values, rtol=1e-4, atol=1e-5)
    assert expected["kl"].max() > 0.1


@pytest.mark.parametrize(
    "choice", [CopiedTeacher(), CopiedTeacher(memory="offload"), LiveTeacher(), TrustRegionTeacher(SHARE)]
)
@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
@torch.no_grad()
def test_tokens_say_what_both_models_say(
    choice: Any, family: str, words_module: Callable[..., Any], family_folder: Any
) -> None:
    if family == "gemma2" and isinstance(choice, TrustRegionTeacher):
        pytest.skip("refused: its logits pass through a soft cap")
    warm = {"sampling": Sampling(temperature=0.8), "teacher_temperature": 0.6, "divergence": ReverseKL()}
    arguments = {"model": str(family_folder(family)), "teacher": choice, "skip_tokens": 2}
    module = ready(words_module(DistillationModule, **SHOWN, **warm, **arguments))
    found = inspect_rollouts(module, EXAMPLES)
    assert found.temperature == 0.8
    for index, look in enumerate(found.looks):
        tokens = completion(look)
        ours, theirs = (token_ids(each[index]) for each in (STUDENT_PROMPTS, TEACHER_PROMPTS))
        student = log_probabilities(module.policy.model, ours, tokens, 0.8)
        teacher = log_probabilities(module.teacher.policy.model, theirs, tokens, 0.6)
        if isinstance(choice, TrustRegionTeacher):
            shown = log_probabilities(module.policy.model, theirs, tokens, 0.6)
            teacher = ((1 - SHARE) * teacher + SHARE * shown).log_softmax(-1)
        check(look, student, teacher)
        assert [token.trained for token in look.tokens] == [place >= 2 for place in range(len(tokens))]


@pytest.mark.parametrize(
    ("choice", "adapter"), [(CopiedTeacher(), TEACHER), (BaseTeacher(), None), (LiveTeacher(), STUDENT)]
)
@torch.no_grad()
def test_teacher_of_an_adapter_is_read_with_its_own(
    choice: Any, adapter: str | None, words_module: Callable[..., Any]
) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, teacher=choice, lora=LORA))
    for index, look in enumerate(inspect_rollouts(module, EXAMPLES).looks):
        tokens = completion(look)
        student = log_probabilities(module.policy.model, token_ids(STUDENT_PROMPTS[index]), tokens)
        with using_adapter(adapted_layers(module.policy.model), adapter):
            teacher = log_probabilities(module.policy.model, token_ids(TEACHER_PROMPTS[index]), tokens)
        check(look, student, teacher)


def answered(policy: Policy, prompt: str, sampling: Sampling, limit: int) -> str:
    (rollout,) = generate(policy, [token_ids(prompt)], limit, sampling, [0])
    return policy.tokenizer.decode(rollout.completion)


def test_both_models_answer_behind_their_own_prompts(words_module: Callable[..., Any]) -> None:
    module = ready(words_module(SDFTModule, sampling=Sampling(temperature=0.7)))
    found = inspect_rollouts(module, EXAMPLES)
    for index, look in enumerate(found.looks):
        limit = module.max_completion_tokens
        assert look.answers["student, greedy"].text == answered(module.policy, STUDENT_PROMPTS[index], GREEDY, limit)
        taught = answered(module.teacher.policy, TEACHER_PROMPTS[index], GREEDY, limit)
        assert look.answers["teacher, greedy"].text == taught
        assert look.answers["demonstration"].text == EXAMPLES[index].demonstration
        assert look.shown[-1]["content"] == f"w50 {EXAMPLES[index].prompt[-1]['content']} w51 " + (
            f"{EXAMPLES[index].demonstration} w52"
        )
        assert look.answers["student, sampled"].finished == (completion(look)[-1] in STOP_IDS)
    texts = {look.id: look.answers["student, sampled"].text for look in found.looks}
    alone = inspect_rollouts(module, EXAMPLES[2:3])
    assert alone.looks[0].answers["student, sampled"].text == texts["c"]
    other = inspect_rollouts(module, EXAMPLES, seed=1)
    assert {look.id: look.answers["student, sampled"].text for look in other.looks} != texts


@pytest.mark.parametrize(
    ("source", "trained_on"), [("teacher", "teacher, sampled"), ("demonstration", "demonstration")]
)
def test_tokens_are_those_that_are_trained_on(source: str, trained_on: str, words_module: Callable[..., Any]) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, rollout_source=source))
    for look in inspect_rollouts(module, EXAMPLES).looks:
        assert look.trained_on == trained_on
        words = " ".join(token.text.strip() for token in look.tokens if token.text.strip() != "<end>")
        assert words == look.answers[trained_on].text


@pytest.mark.parametrize("lora", [None, LoRA(rank=3, target_modules=["q_proj"], dropout=0.5)])
def test_nothing_of_the_module_changes(lora: LoRA | None, words_module: Callable[..., Any]) -> None:
    module = ready(words_module(SDFTModule, lora=lora, gradient_checkpointing=True))
    module.policy.model.base_model.eval()  # so that modes differ
    module.policy.model.train(mode=True)
    module.teacher.eval()
    before = copy.deepcopy(module.state_dict())
    modes = [part.training for part in module.modules()]
    needs = [weight.requires_grad for weight in module.parameters()]
    torch.manual_seed(7)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first, again = (inspect_rollouts(module, EXAMPLES) for _ in range(2))

    assert first == again  # no dropout
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert [weight.requires_grad for weight in module.parameters()] == needs
    assert all(weight.grad is None for weight in module.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_models_are_loaded_if_they_are_not_yet(words_module: Callable[..., Any]) -> None:
    module = words_module(SDFTModule)
    looks = inspect_rollouts(module, EXAMPLES[:1], candidates=2).looks
    assert len(looks[0].tokens[0].student) == 2
    assert hasattr(module, "policy")


def test_what_has_no_teacher_or_no_demonstration_is_refused(words_module: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="without a data module nothing says which answers are right"):
        inspect_rollouts(words_module(SDPOModule), [replace(each, reference=4) for each in EXAMPLES])
    with pytest.raises(SettingError, match="SFTModule has none; ask the student with"):
        inspect_rollouts(words_module(SFTModule), EXAMPLES)
    bare = Example("bare", [{"role": "user", "content": "w1"}])
    with pytest.raises(DataError, match="'bare' has no demonstration"):
        inspect_rollouts(words_module(SDFTModule), [bare])
    with pytest.raises(DataError, match="over a token budget"):
        inspect_rollouts(words_module(SDFTModule, max_teacher_prompt_tokens=4), EXAMPLES)
    with pytest.raises(SettingError, match="candidates=0"):
        inspect_rollouts(words_module(SDFTModule), EXAMPLES, candidates=0)


def test_a_teacher_that_is_told_of_answers_is_asked_and_compared_behind_what_it_is_told(
    words_module: Callable[..., Any], words_data: Any
) -> None:
    examples = [replace(question(index), demonstration=None, reference=4) for index in range(8)]
    module = ready(words_module(SDPOModule, teacher_template=["{prompt}", " w52 {attempt} w53"]))
    module.informing.take_grader(words_data(examples, [EvaluationSet(examples[:2], {"short": Short()})]))
    told = set()
    for example, look in zip(examples, inspect_rollouts(module, examples).looks, strict=True):
        attempt = look.answers["student, sampled"].text
        wrong, own = len(attempt.split()) > 4, str(example.prompt[0]["content"])
        seen = f"{own} w52 {attempt} w53" if wrong else own
        assert look.shown == [{"role": "user", "content": seen}]
        assert look.trained_on == "student, sampled"
        assert {token.trained for token in look.tokens} == {wrong}
        prompts = [token_ids(f"<user> {text} <end> <assistant>") for text in (own, seen)]
        completion = token_ids(attempt + (" <end>" if look.answers["student, sampled"].finished else ""))
        if len(completion) != len(look.tokens):
            continue  # it ended with another word
        student, teacher = (
            log_probabilities(each.policy.model.eval(), prompt, completion)
            for each, prompt in zip((module, module.teacher), prompts, strict=True)
        )
        expected = forward_kl(student, teacher).tolist()
        assert [token.kl for token in look.tokens] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        told.add(wrong)
    assert told == {True, False}
