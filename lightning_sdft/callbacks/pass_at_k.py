"""How often at least one of several sampled answers is right, beside the accuracy of greedy answers.

[1] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics import CatMetric

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.errors import SettingError
from lightning_sdft.grading.interval import Score, bootstrap
from lightning_sdft.grading.pass_at_k import pass_at_k, powers_of_two
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.records import Example, Sampling
from lightning_sdft.rollout import respond
from lightning_sdft.settings import Count, Seed, check_ranges

__all__ = ["PassAtK"]


class PassAtK(Callback):
    """Samples several answers to each prompt in ``test``, and logs the unbiased pass@k, as in Fig. 5 of [1].

    ``test/pass_at_8/science`` is the share of questions with a right one among 8 answers, with the 95% interval beside
    it (``test/pass_at_8_low/science``, ``..._high/...``). Loggers also get the curve ``pass_at_k/science``,
    whose step is k. Every k is estimated from the same samples, whose seeds depend on the question's id and ``seed``.

    A response that could not be graded does not count as a sample. A question with fewer than k graded samples is left
    out of pass@k, and ``test/pass_at_k_ungraded/science`` is the number of ungraded responses.

    Args:
        samples: Responses to each prompt, which is also the largest k.
        sampling: How the responses are sampled.
        batch_size: Prompts sampled at once, each ``samples`` times.
        seed: Seed of the responses.

    Raises:
        SettingError: If a number is out of range, or the temperature is 0.
    """

    def __init__(
        self,
        samples: Count = 128,
        sampling: Sampling = Sampling(temperature=1.0, top_p=0.95),  # noqa: B008  # frozen
        batch_size: Count = 4,
        seed: Seed = 0,
    ) -> None:
        check_ranges(PassAtK, locals())
        if not sampling.temperature:
            raise SettingError("PassAtK: sampling.temperature=0 gives the same answer every time; take one above 0")
        self.samples = samples
        self.sampling = sampling
        self.batch_size = batch_size
        self.seed = seed
        self._counts: dict[tuple[int, str], CatMetric] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the counts."""
        self._counts = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Sample and grade the prompts of a batch."""
        module = cast(CausalLMModule, pl_module)
        if not (graders := module.graded.of(dataloader_idx)):
            return
        asked = MicroBatch.of(batch).examples
        for start in range(0, len(asked), self.batch_size):
            examples = asked[start : start + self.batch_size]
            repeated = [example for example in examples for _ in range(self.samples)]
            responses = self._respond(module, examples)
            for name, grader in graders.items():
                verdicts = grader.grade_all(responses, [example.reference for example in repeated])
                for index in range(len(examples)):
                    given = verdicts[index * self.samples : (index + 1) * self.samples]
                    graded = [verdict for verdict in given if verdict is not None]
                    counts = torch.tensor([[sum(graded), len(graded)]], device=pl_module.device)
                    self._counts.setdefault((dataloader_idx, name), CatMetric().to(pl_module.device)).update(counts)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log pass@k of every set and grader."""
        for (_, name), metric in self._counts.items():
            correct, graded = metric.compute().long().cpu().reshape(-1, 2).unbind(dim=1)
            ungraded = int((self.samples - graded).sum())
            if ungraded:
                pl_module.log(f"test/pass_at_k_ungraded/{name}", float(ungraded), batch_size=1)
            for k in powers_of_two(self.samples):
                enough = graded >= k
                score = bootstrap([pass_at_k(correct[enough], graded[enough], k)])
                self._log(trainer, pl_module, name, k, score)

    def _respond(self, module: CausalLMModule, examples: Sequence[Example]) -> list[str]:
        """Responses to the first example, then to the second, and so on."""
        encoded = module.tokenizer.encode_all([example.prompt for example in examples])
        prompts = [prompt for prompt in encoded for _ in range(self.samples)]
        seeds = [_seed(self.seed, example.id, number) for example in examples for number in range(self.samples)]
        rollouts = respond(module.policy, prompts, module.max_completion_tokens, self.sampling, seeds)
        return [module.tokenizer.answer(rollout.completion) for rollout in rollouts]

    def _log(self, trainer: Trainer, pl_module: LightningModule, name: str, k: int, score: Score) -> None:
        for suffix, value in (("", score.value), ("_low", score.low), ("_high", score.high)):
            pl_module.log(f"test/pass_at_{k}{suffix}/{name}", value, batch_size=1)
        for logger in trainer.loggers:
            logger.log_metrics({f"pass_at_k/{name}": score.value}, step=k)


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7])
