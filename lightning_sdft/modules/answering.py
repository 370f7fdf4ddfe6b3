"""Validation, test and prediction: a policy that answers greedily and is graded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from lightning_sdft.distributed.sharding import unsharded
from lightning_sdft.modules.graded_sets import GradedSets
from lightning_sdft.policy import Policy, Tokenizer
from lightning_sdft.records import GREEDY, Example, Rollout
from lightning_sdft.rollout import generate

__all__ = ["Answering"]


class Answering:
    """The part of a module that is evaluated.

    Sharded weights are gathered once for an evaluation, of which processes may have different shares.

    Args:
        tokenizer: The policy's tokenizer.
        max_completion_tokens: Length at which answers are truncated.
    """

    def __init__(self, tokenizer: Tokenizer, max_completion_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_completion_tokens = max_completion_tokens
        self._gathered = ExitStack()

    def begin(self, policy: Policy) -> None:
        """Gather the weights where they are sharded."""
        self._gathered.enter_context(unsharded(policy))

    def end(self) -> None:
        """Cut the weights again, before they may be saved."""
        self._gathered.close()

    def respond(self, policy: Policy, examples: Sequence[Example]) -> list[Rollout]:
        """Answer the prompts of examples greedily."""
        prompts = self.tokenizer.encode_all([example.prompt for example in examples])
        return generate(policy, prompts, self.max_completion_tokens, GREEDY)

    def grade(
        self, policy: Policy, examples: Sequence[Example], graded: GradedSets, index: int
    ) -> dict[str, list[Rollout]]:
        """Answer examples of a set, and count how many answers are right.

        Args:
            policy: Who answers.
            examples: The examples.
            graded: The sets, which keep the counts.
            index: Which of the sets the examples are of.

        Returns:
            The answers as ``rollouts``, for callbacks.
        """
        rollouts = self.respond(policy, examples)
        graded.update(index, examples, self._texts(rollouts))
        graded.count(index, [len(rollout.completion) for rollout in rollouts])
        return {"rollouts": rollouts}

    def predict(
        self, policy: Policy, examples: Sequence[Example], graded: GradedSets, index: int
    ) -> list[dict[str, Any]]:
        """Answer examples of a set: a record each with the verdicts on its answer, for a line of JSON.

        Arguments as of :meth:`grade`.
        """
        rollouts = self.respond(policy, examples)
        responses = self._texts(rollouts)
        verdicts = graded.verdicts(index, examples, responses)
        return [
            {
                "id": example.id,
                "prompt": example.prompt,
                "response": response,
                "finished": rollout.finished,
                "reference": example.reference,
                "correct": correct,
            }
            for example, rollout, response, correct in zip(examples, rollouts, responses, verdicts, strict=True)
        ]

    def _texts(self, rollouts: Sequence[Rollout]) -> list[str]:
        return [self.tokenizer.decode(rollout.completion) for rollout in rollouts]
