"""Rehearses an optimizer step: runs its code without numbers, and records the memory of each phase."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_sdft.memory.hollow import Hollow
from lightning_sdft.memory.images import blank_images, with_image
from lightning_sdft.memory.ledger import Ledger
from lightning_sdft.memory.lengths import Lengths
from lightning_sdft.memory.logits import logits_memory
from lightning_sdft.memory.models import Weights, loaded
from lightning_sdft.memory.plan import TrainerPlan
from lightning_sdft.modules import CausalLMModule, DistillationModule, SFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.decoding import DecodingState
from lightning_sdft.policy.fixed_decoding import FixedState
from lightning_sdft.policy.inference import casting_once, evaluating
from lightning_sdft.records import GREEDY, Sampling, TokenSequence
from lightning_sdft.rollout.captured import SHORTEST
from lightning_sdft.rollout.sampling import sample
from lightning_sdft.teacher.compensated import PIECE, CompensatedTeacher

__all__ = ["Phase", "Rehearsal", "rehearse"]


@dataclass(frozen=True)
class Phase:
    """A phase of a step.

    Args:
        name: What is done in it.
        parts: Bytes at its peak, beyond what is always allocated, by what they are for.
    """

    name: str
    parts: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes at its peak, beyond what is always allocated."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal has recorded, for a process with whole models.

    Args:
        weights: The weights.
        states: Bytes of the optimizer's states.
        phases: The phases of the step, in order.
    """

    weights: Weights
    states: int
    phases: list[Phase]


def rehearse(module: CausalLMModule, plan: TrainerPlan, lengths: Lengths) -> Rehearsal:
    """Take an optimizer step without numbers, on whole models.

    Args:
        module: The module, which has not loaded its models; it is left as it was.
        plan: The trainer's settings.
        lengths: The numbers of tokens that are read and written.
    """
    with plan.loading(), Hollow() as run, blank_images(module), loaded(module):
        return _Step(module, plan, lengths, run.ledger).take()


class _Step:
    def __init__(self, module: CausalLMModule, plan: TrainerPlan, lengths: Lengths, ledger: Ledger) -> None:
        self.module, self.plan, self.lengths, self.ledger = module, plan, lengths, ledger
        self.weights = Weights.of(module)
        self.trained = [each for each in module.policy.parameters() if each.requires_grad]
        self.phases: list[Phase] = []
        self.held = ledger.now  # what is always allocated

    def take(self) -> Rehearsal:
        """Rehearse all phases of the step."""
        accumulates = self.lengths.micro_batches > 1 or self.plan.parts > 1
        if accumulates:  # onto gradients that exist already
            for parameter in self.trained:
                parameter.grad = torch.empty_like(parameter)
            self.held = self.ledger.now
        with self.plan.computing():
            loss = self._forward()
        if not accumulates:  # gradients are freed before the backward pass, which allocates them again
            self.held += self.weights.trained
        with self._phase("backward", "activations and their gradients"):
            loss.backward()
        del loss
        optimizer, states = self._optimize()
        if isinstance(self.module, DistillationModule) and self.plan.teacher_follows:
            teacher = self.module.teacher
            if self.plan.accelerator and isinstance(teacher, CompensatedTeacher):
                teacher.piece = PIECE["accelerator"]
            with self._phase("teacher's update", "weights on the way"):
                teacher.update_(self.module.policy, 0.5)
                teacher.drift(self.module.policy)
        if self.plan.evaluates and self.lengths.evaluated:
            with self.plan.computing():
                self._answer("evaluation", self.module.policy, self.lengths.evaluated, GREEDY)
        del optimizer
        return Rehearsal(self.weights, states, self.phases)

    def _forward(self) -> Tensor:
        module, lengths = self.module, self.lengths
        beside: list[Tensor] = []  # the teacher's part of the loss
        if isinstance(module, DistillationModule):
            if lengths.sampled:
                writer = module.teacher.policy if module.rollout_source == "teacher" else module.policy
                self._answer("rollouts", writer, lengths.sampled, module.sampling, lengths.generations)
            with self._phase("teacher", "activations"):
                beside.append(module.teacher.hidden(self._sequences(lengths.teacher, lengths.generations)))
        with self._phase("student", "activations"):
            packed = isinstance(module, SFTModule) and module.packing
            hidden = module.policy.hidden(self._sequences(lengths.student, lengths.generations), packed)
        kept = self.ledger.now - self.held
        with self._phase("loss", "gradients of head and hidden states") as parts:
            parts["activations"] = kept
            head = module.policy.head.gathered()
            if isinstance(module, DistillationModule):
                beside.append(module.teacher.head.gathered().weight)
            loss: Tensor = _LossGradients.apply(hidden, head.weight, head.bias)  # type: ignore[no-untyped-call]
        heads, width = [head.weight, *beside[1:]], head.weight.shape[1]
        own = [head.weight, *(each for each in heads[1:] if each is not head.weight)]
        # The head of two models that are mixed counts as two.
        precisions = [each.dtype for each in own for _ in range(math.ceil(each.shape[1] / width))]
        shape = len(hidden), width, head.weight.shape[0]
        how = len(heads), self.plan.product_precision, self.plan.accelerator
        self.phases[-1].parts["logits"] = logits_memory(*shape, precisions, *how)
        if module.retention is not None:  # whose activations are kept beside the others until the backward pass
            prompts = math.ceil(module.retention.prompts / (self.plan.processes * lengths.micro_batches))
            with self._phase("retention", "activations"):
                hidden = module.policy.hidden(self._sequences(list(islice(cycle(lengths.student), prompts))))
                loss = loss + _LossGradients.apply(hidden, head.weight, head.bias)  # type: ignore[no-untyped-call]
        return loss

    def _optimize(self) -> tuple[torch.optim.Optimizer, int]:
        fused = self.plan.product_precision is None  # see CausalLMModule.configure_optimizers
        foreach = self.plan.accelerator and not fused  # torch's own choice
        optimizer = torch.optim.AdamW(self.trained, fused=fused, foreach=foreach)
        with self.ledger.measured() as states:
            optimizer.step()
        self.held += states.kept
        with self._phase("optimizer", "states on the way"):
            optimizer.step()
        return optimizer, states.kept

    def _answer(
        self, name: str, policy: Policy, prompts: Sequence[int], sampling: Sampling, generations: int = 1
    ) -> None:
        """Read prompts and write the first and the last token; keys and values grow in between."""
        texts = [self._prompt(index, length) for index, length in enumerate(prompts) for _ in range(generations)]
        with (
            self._phase(name, "activations") as parts,
            torch.no_grad(),
            evaluating(policy),
            casting_once(policy.device),
        ):
            begun = policy.prefill(texts)
            state: DecodingState | FixedState = begun
            noise = torch.rand(len(texts), self.lengths.completion, dtype=torch.float64)
            tokens, _ = sample(begun.logits, Sampling(sampling.temperature), noise[:, 0])
            if self.lengths.completion > 1:
                if self.plan.accelerator and self.lengths.completion >= SHORTEST:
                    state = FixedState(begun, range(len(texts)), self.lengths.completion - 1)
                else:
                    _grow(begun, self.lengths.completion - 2)
                policy.advance(state, tokens)
                sample(state.logits, Sampling(sampling.temperature), noise[:, -1])
            parts["keys and values"] = sum(each.key_buffer.nbytes + each.value_buffer.nbytes for each in state.layers)

    def _sequences(self, lengths: Sequence[tuple[int, int]], generations: int = 1) -> list[TokenSequence]:
        """Sequences of these lengths, in which only the generations of a prompt begin alike."""
        return [
            TokenSequence(self._prompt(index, prompt), [generation, *[0] * (completion - 1)])
            for index, (prompt, completion) in enumerate(lengths)
            for generation in range(generations)
        ]

    def _prompt(self, index: int, length: int) -> list[int]:
        return with_image([index, *[0] * (length - 1)], self.lengths.image, self.module.tokenizer.images)

    @contextmanager
    def _phase(self, name: str, rest: str) -> Iterator[dict[str, int]]:
        """Record what the code inside takes; ``rest`` names the bytes for which it names no other purpose."""
        parts: dict[str, int] = {}
        with self.ledger.measured() as usage:
            yield parts
        peak = usage.before + usage.peak - self.held
        self.phases.append(Phase(name, {rest: peak - sum(parts.values()), **parts}))


class _LossGradients(torch.autograd.Function):
    """Keeps what the fused loss keeps for the backward pass, without computing the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        wide = torch.promote_types(weight.dtype, torch.float32)
        precisions = hidden.dtype, wide, wide
        ctx.gradients = [
            torch.empty_like(each, dtype=precision) if each is not None and needed else None
            for each, precision, needed in zip((hidden, weight, bias), precisions, ctx.needs_input_grad, strict=True)
        ]
        ctx.precisions = [None if each is None else each.dtype for each in (hidden, weight, bias)]
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx: Any, loss_gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        pairs = zip(gradients, ctx.precisions, strict=True)
        return tuple(None if each is None else each.to(precision) for each, precision in pairs)


def _grow(state: DecodingState, count: int) -> None:
    """Let keys and values grow as if ``count`` more tokens had been read."""
    for layer in state.layers:
        batch, heads, _, width = layer.key_buffer.shape
        new = (batch, heads, count, width)
        layer.update(layer.key_buffer.new_empty(new), layer.value_buffer.new_empty(new))
    if state.attention_mask is not None and state.positions is not None:
        state.attention_mask = pad(state.attention_mask, (0, count), value=1)
        state.positions = state.positions + count
