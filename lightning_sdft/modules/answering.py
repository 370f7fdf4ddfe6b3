"""Validation, test and prediction: the policy answers greedily, and graders check the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from lightning_sdft.distributed.sharding import unsharded
from lightning_sdft.modules.checks import naming
from lightning_sdft.modules.graded_sets import GradedSets
from lightning_sdft.modules.surprise import token_losses
from lightning_sdft.policy import Policy, Tokenizer
from lightning_sdft.records import GREEDY, Example, Rollout, TokenSequence
from lightning_sdft.rollout import respond

__all__ = ["Answering"]


class Answering:
    """The part of a module that answers prompts greedily and has the answers graded.

    Sharded weights are gathered once per evaluation, because processes may have different numbers of batches.

    Args:
        tokenizer: The policy's tokenizer.
        max_completion_tokens: Length at which answers are truncated.
    """

    def __init__(self, tokenizer: Tokenizer, max_completion_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_completion_tokens = max_completion_tokens
        self._gathered = ExitStack()

    def begin(self, policy: Policy) -> None:
        """Gather the weights if they are sharded."""
        self._gathered.enter_context(unsharded(policy))

    def end(self) -> None:
        """Shard the weights again; a checkpoint may be saved next."""
        self._gathered.close()

    def respond(self, policy: Policy, examples: Sequence[Example]) -> list[Rollout]:
        """Answer the prompts of examples greedily."""
        encode = naming(lambda example: self.tokenizer.encode(example.prompt))
        prompts = [encode(example) for example in examples]
        return respond(policy, prompts, self.max_completion_tokens, GREEDY, [0] * len(prompts))

    def evaluate(
        self,
        policy: Policy,
        examples: Sequence[Example],
        graded: GradedSets,
        index: int,
        demonstrations: Callable[[Sequence[Example]], Sequence[TokenSequence]],
    ) -> dict[str, Any]:
        """Like :meth:`grade`, but without graders it counts the losses of the demonstrations, and nothing is answered.

        Args:
            policy: See :meth:`grade`.
            examples: See :meth:`grade`.
            graded: See :meth:`grade`.
            index: See :meth:`grade`.
            demonstrations: Makes sequences of examples, whose completions are the demonstrations.
        """
        if graded.grades(index):
            return self.grade(policy, examples, graded, index)
        graded.lose(index, token_losses(policy, demonstrations(examples)))
        return {}

    def grade(self, policy: Policy, examples: Sequence[Example], graded: GradedSets, index: int) -> dict[str, Any]:
        """Answer examples of a set, and count the right answers.

        Args:
            policy: The policy that answers.
            examples: The examples.
            graded: The evaluation sets, which keep the counts.
            index: Number of the set that the examples are from.

        Returns:
            The answers as ``rollouts``, and the verdicts of each grader on each of them as ``verdicts``, for callbacks.
        """
        rollouts = self.respond(policy, examples)
        answers = [self.tokenizer.answer(each.completion) for each in rollouts]
        verdicts = graded.update(index, examples, answers)
        graded.count(index, [len(rollout.completion) for rollout in rollouts])
        return {"rollouts": rollouts, "verdicts": verdicts}

    def predict(
        self, policy: Policy, examples: Sequence[Example], graded: GradedSets, index: int
    ) -> list[dict[str, Any]]:
        """Answer examples of a set: one record per example with its verdicts, to be written as a line of JSON.

        The arguments are those of :meth:`grade`.
        """
        rollouts = self.respond(policy, examples)
        responses = [self.tokenizer.decode(each.completion) for each in rollouts]
        answers = [self.tokenizer.answer(each.completion) for each in rollouts]
        verdicts = graded.verdicts(index, examples, answers)
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
