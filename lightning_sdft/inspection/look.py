"""Looks inside self-distillation: what student and teacher answer, and where they disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_sdft.distributed.sharding import unsharded
from lightning_sdft.errors import SettingError
from lightning_sdft.inspection.records import Answer, Candidate, RolloutLook, TokenLook
from lightning_sdft.inspection.views import Inspection
from lightning_sdft.losses import ForwardKL, distillation_loss
from lightning_sdft.losses.likeliest import likeliest
from lightning_sdft.modules.attempts import attempts
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.modules.checks import check_budgets, check_complete
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.modules.rollout_source import continued, demonstrated
from lightning_sdft.modules.sdpo import SDPOModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.policy.pieces import piece, pieces
from lightning_sdft.records import GREEDY, Example, Rollout, Sampling, TokenSequence
from lightning_sdft.rollout import respond
from lightning_sdft.settings import Count, Natural, check_ranges

__all__ = ["inspect_rollouts", "taught", "token_looks"]

DEMONSTRATED = "demonstration"

BATCH = 8
"""Prompts answered at once."""


def inspect_rollouts(
    module: CausalLMModule, examples: Sequence[Example], seed: Natural = 0, candidates: Count = 5
) -> Inspection:
    """Answer examples by student and teacher, and compare the two at each token of the rollout.

    The student answers on its own, sampled as in training and greedily; the teacher, which is shown more, does too. A
    mixed teacher cannot write, so its reference answers. The teacher of SDPO is told of the student's sampled answer,
    which is graded first; where it is told nothing, no token is in the loss. The tokens are those of the rollout that
    training would learn from (``rollout_source``), and both models read them as in the loss: each behind its own
    prompt, at the temperatures of the loss, over the full vocabulary.

    The models are loaded if they are not yet. Nothing else of the module changes, nor do random number generators.

    Args:
        module: A module with a teacher, before, during or after training.
        examples: The examples, with what the teacher is shown.
        seed: Seed of sampled answers; those of an example depend on nothing else.
        candidates: Number of likeliest next tokens to show of each model.

    Returns:
        What was found; it shows itself in Jupyter, and ``print`` writes it as text.

    Raises:
        SettingError: If the module has no teacher, or a number is out of range.
        DataError: If an example lacks what the teacher is shown, or is over a budget; or if nothing grades answers
            that the teacher is to be told of.
    """
    check_ranges(inspect_rollouts, locals())
    module = taught(module)
    check_complete(examples, module.missing, type(module).__name__)
    check_budgets(examples, module.training_problem)
    with isolate_rng():
        module.configure_model()
    own = module.tokenizer.encode_all([example.prompt for example in examples])
    attempted = attempts(module, examples, batch_size=BATCH, seed=seed) if isinstance(module, SDPOModule) else None
    conversations = [module.teacher_messages(example) for example in examples]
    if attempted is not None:
        conversations = [list(each.messages) for each in attempted]
    shown = module.tokenizer.encode_all(conversations)
    seeds = [int.from_bytes(hashlib.sha256(f"{seed} {example.id}".encode()).digest()[:7]) for example in examples]
    student, teacher, limit = module.policy, module.teacher.policy, module.max_completion_tokens
    given = {
        "student, sampled": [each.rollout for each in attempted]
        if attempted is not None
        else _answers(student, own, limit, module.sampling, seeds),
        "student, greedy": _answers(student, own, limit, GREEDY, seeds),
        "teacher, sampled": _answers(teacher, shown, limit, module.sampling, seeds),
        "teacher, greedy": _answers(teacher, shown, limit, GREEDY, seeds),
    }
    trained_on = {"student": "student, sampled", "teacher": "teacher, sampled"}.get(module.rollout_source, DEMONSTRATED)
    rollouts = given.get(trained_on) or [demonstrated(example, module.tokenizer) for example in examples]
    tokens = [
        token_looks(module, continued([prompt], [rollout]), continued([seen], [rollout]), candidates)[0]
        for prompt, seen, rollout in zip(own, shown, rollouts, strict=True)
    ]
    looks = []
    for index, example in enumerate(examples):
        answers = {name: _as_text(module, each[index]) for name, each in given.items()}
        if example.demonstration is not None:
            answers[DEMONSTRATED] = Answer(example.demonstration, finished=True)
        if attempted is not None and not attempted[index].told:
            tokens[index] = [replace(token, trained=False) for token in tokens[index]]
        looks.append(RolloutLook(example.id, example.prompt, conversations[index], answers, trained_on, tokens[index]))
    return Inspection(looks, module.temperatures["temperature"] or 1.0)


def taught(module: CausalLMModule) -> DistillationModule:
    """The module, as one that has a teacher.

    Raises:
        SettingError: If it has none.
    """
    if isinstance(module, DistillationModule):
        return module
    raise SettingError(
        f"there is no teacher to compare the student with: {type(module).__name__} has none; ask the student with "
        "module.answer(prompts)"
    )


@torch.no_grad()
def token_looks(
    module: DistillationModule,
    student: Sequence[TokenSequence],
    teacher: Sequence[TokenSequence],
    candidates: int = 5,
) -> list[list[TokenLook]]:
    """What student and teacher say at each token of completions.

    All processes must call this together if weights are sharded.

    Args:
        module: The module with both models.
        student: The completions behind the student's prompts.
        teacher: The same completions behind the teacher's prompts.
        candidates: Number of likeliest next tokens of each model.
    """
    policy = module.policy
    with ExitStack() as gathered:
        for each in dict.fromkeys((policy, module.teacher.policy)):
            gathered.enter_context(unsharded(each))
        with evaluating(policy):
            hidden = policy.hidden(student)
        teacher_hidden = module.teacher.hidden(teacher)
        head, teacher_head = policy.head, module.teacher.head
        warm = module.temperatures["temperature"] or 1.0
        cool = module.temperatures["teacher_temperature"] or warm
        weights = torch.ones(len(hidden), device=hidden.device)
        found = distillation_loss(
            hidden, head, teacher_hidden, teacher_head, weights, ForwardKL(), warm, cool
        ).diagnostics
        tops = (likeliest(hidden, head, candidates, warm), likeliest(teacher_hidden, teacher_head, candidates, cool))
    columns = [found[name].tolist() for name in ("kl", "student_entropy", "teacher_entropy")]
    guesses = [list(zip(*(each.tolist() for each in top), strict=True)) for top in tops]
    rows = iter(zip(*columns, *guesses, strict=True))
    return [
        [
            _token_look(module, sequence.completion, index, text, next(rows))
            for index, text in enumerate(pieces(module.tokenizer, sequence.completion))
        ]
        for sequence in student
    ]


def _token_look(
    module: DistillationModule, completion: Sequence[int], index: int, text: str, row: tuple[Any, ...]
) -> TokenLook:
    """A token with its KL, both entropies, and the probabilities and ids of what both models find likeliest there."""
    kl, student_entropy, teacher_entropy, *guesses = row
    student, teacher = (
        [
            Candidate(piece(module.tokenizer, completion[:index], token), probability)
            for probability, token in zip(probabilities, ids, strict=True)
        ]
        for probabilities, ids in guesses
    )
    return TokenLook(text, kl, student_entropy, teacher_entropy, student, teacher, index >= module.skip_tokens)


def _answers(
    policy: Policy, prompts: Sequence[list[int]], limit: int, sampling: Sampling, seeds: Sequence[int]
) -> list[Rollout]:
    return [
        rollout
        for start in range(0, len(prompts), BATCH)
        for rollout in respond(policy, prompts[start : start + BATCH], limit, sampling, seeds[start : start + BATCH])
    ]


def _as_text(module: DistillationModule, rollout: Rollout) -> Answer:
    return Answer(module.tokenizer.decode(rollout.completion), rollout.finished)
