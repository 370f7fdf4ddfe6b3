"""What the teacher of SDPO is shown outside of a training step: the student attempts the questions first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_sdft.data.groups import repeated
from lightning_sdft.distributed.sharding import unsharded
from lightning_sdft.modules.sdpo import SDPOModule
from lightning_sdft.records import Example, Message, Rollout, Sampling
from lightning_sdft.rollout import respond
from lightning_sdft.settings import Count, Natural, check_ranges

__all__ = ["Attempt", "attempts"]


@dataclass(frozen=True)
class Attempt:
    """An attempt of the student, and what the teacher is shown then.

    Args:
        rollout: The attempt.
        messages: The conversation that the teacher sees: the student's own, if it is told nothing.
        shown: Its token ids.
        told: Whether the teacher is told anything; otherwise training would not learn from the attempt.
    """

    rollout: Rollout
    messages: Sequence[Message]
    shown: list[int]
    told: bool


def attempts(
    module: SDPOModule,
    examples: Sequence[Example],
    sampling: Sampling | None = None,
    batch_size: Count = 8,
    seed: Natural = 0,
) -> list[Attempt]:
    """Let the student attempt each example ``generations`` times, as in a step, and have the first attempts told of.

    The attempts of an example depend on nothing but the student and the seed. They are not the answers by which the
    student is measured elsewhere: a teacher that is told nothing of use is then as often right as the student, though
    it is asked once more where the student has failed. All processes must call this together if weights are sharded.

    Args:
        module: The module, which has a grader.
        examples: The examples.
        sampling: How they are attempted; by default as in training.
        batch_size: Examples attempted at once.
        seed: Seed of the attempts.

    Returns:
        The first attempt of each example.

    Raises:
        DataError: If there is no grader.
        SettingError: If a number is out of range.
    """
    check_ranges(attempts, locals())
    policy, times, limit = module.policy, module.generations, module.max_completion_tokens
    rollouts: list[Rollout] = []
    with unsharded(policy):
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            prompts = repeated(module.tokenizer.encode_all([example.prompt for example in part]), times)
            seeds = [_seed(seed, example, number) for example in part for number in range(times)]
            rollouts += respond(policy, prompts, limit, sampling or module.sampling, seeds)
    if not rollouts:
        return []
    told = module.informing.tell(repeated(examples, times), rollouts)[::times]
    return [
        Attempt(rollout, example.prompt, rollout.prompt, told=False)
        if each is None
        else Attempt(rollout, each.messages, each.tokens, told=True)
        for example, rollout, each in zip(examples, rollouts[::times], told, strict=True)
    ]


def _seed(seed: int, example: Example, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"attempt {seed} {number} {example.id}".encode()).digest()[:7])
