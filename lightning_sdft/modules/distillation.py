"""On-policy distillation: rollout, teacher, divergence. The arguments choose among all on- and off-policy variants.

[1] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897
[2] Agarwal et al., On-Policy Distillation of Language Models, 2023, https://arxiv.org/abs/2306.13649
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from lightning_sdft.data.groups import Group, Item, MicroBatch, repeated
from lightning_sdft.data.templates import TEMPLATES, PrivilegedContext, teacher_messages, template_fields
from lightning_sdft.distributed.sharding import check_alike
from lightning_sdft.errors import SettingError
from lightning_sdft.losses import (
    Divergence,
    ForwardKL,
    Reduction,
    TokenFocus,
    TruncatedImportance,
    distillation_loss,
    token_weights,
)
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.modules.rollout_source import (
    RolloutSource,
    TeacherShare,
    continued,
    demonstrated,
    say_of_rows,
    source_problem,
)
from lightning_sdft.modules.skipping import check_demonstrations, check_skipped, warn_of_nothing
from lightning_sdft.modules.step_means import DIAGNOSTICS, mean_tokens
from lightning_sdft.modules.thinking import check_thinking
from lightning_sdft.modules.token_focus import focus_factors
from lightning_sdft.records import Example, Message, Rollout, Sampling, TokenSequence
from lightning_sdft.rollout import InProcessEngine, RolloutEngine, Sample, budgeted, generate, own_seeds, score_rollouts
from lightning_sdft.settings import Count, LossTemperature, Natural, check_ranges
from lightning_sdft.teacher import CopiedTeacher, FullTeacher, OffloadedTeacher, Teacher, TeacherChoice, TeacherUpdate
from lightning_sdft.teacher.offloaded import leave_out_of_ddp

__all__ = ["DistillationModule"]


class DistillationModule(CausalLMModule):
    """Pulls the student towards the teacher's next-token distributions on rollouts.

    Four choices are independent: who writes the rollouts, the divergence, the teacher, and what only the teacher sees.
    A copied teacher stays frozen unless the callback :class:`EMATeacher` updates it.

    Args:
        model: See :class:`CausalLMModule`.
        rollout_source: Where the completions come from: the ``student`` (on-policy) or the ``teacher`` (off-policy
            distillation) samples them, or they are each example's ``demonstration``.
        teacher_share: The share of rollouts that the teacher writes beside the student, which falls during training.
        generations: Rollouts of each prompt in an optimizer step. Student and teacher read a prompt once for all of
            them, where the model permits.
        divergence: The divergence to minimise: ``ForwardKL`` (default), ``ReverseKL``, ``JensenShannon``; ``TopK`` or
            ``Clipped`` of one of these, or ``Toward`` a target between student and teacher.
        teacher: Which model is the teacher: ``CopiedTeacher`` (default), a copy of the student as it is when training
            starts, or of another model; ``LiveTeacher``, the student as it is at every step; ``BaseTeacher``, the model
            without the adapter of ``lora``; ``TrustRegionTeacher``, a frozen model mixed with the student.
        privileged_context: What only the teacher sees: the example's ``demonstration``, its ``article``, ``both``, or
            ``none``.
        teacher_template: Template of the teacher's user turn, with ``{prompt}``, ``{demonstration}`` and ``{context}``
            (the article); by default the one in the code of [1].
        max_teacher_prompt_tokens: Token budget of the teacher's prompt, which is never truncated.
        skip_tokens: Number of leading completion tokens left out of the loss, so that the student does not learn a
            preamble in which the teacher refers to the demonstration.
        sampling: How rollouts are sampled.
        loss_temperature: Temperature of student and teacher in the loss; by default that of the sampling, and 1 if
            that is greedy.
        teacher_temperature: Temperature of the teacher in the loss, if it is to be another one.
        engine: What samples the student's rollouts: by default the student itself, in its own precision;
            ``VLLMEngine`` is vLLM in this process, ``VLLMServer`` a vLLM server, ``ContinuousEngine`` transformers'.
        importance: Truncated importance weights, used for tokens from an engine that is not exactly the student.
        reduction: ``sequence`` takes the mean over a rollout's tokens, then over rollouts; ``token`` takes the mean
            over all tokens of an optimizer step.
        focus: More weight for the tokens where there is more to learn; by default all count the same.
        **kwargs: See :class:`CausalLMModule`.

    Raises:
        SettingError: If the teacher or the engine does not go with the other arguments.
    """

    teacher: Teacher

    def __init__(
        self,
        model: str,
        rollout_source: RolloutSource = "student",
        teacher_share: TeacherShare | None = None,
        generations: Count = 1,
        divergence: Divergence | None = None,
        teacher: TeacherChoice | None = None,
        privileged_context: PrivilegedContext = "none",
        teacher_template: str | None = None,
        max_teacher_prompt_tokens: Count = 2048,
        skip_tokens: Natural = 0,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
        loss_temperature: LossTemperature | None = None,
        teacher_temperature: LossTemperature | None = None,
        engine: RolloutEngine | None = None,
        importance: TruncatedImportance = TruncatedImportance(),  # noqa: B008  # frozen
        reduction: Reduction = "sequence",
        focus: TokenFocus | None = None,
        **kwargs: Any,
    ) -> None:
        check_ranges(DistillationModule, locals(), type(self).__name__)
        super().__init__(model, **kwargs)
        self.teacher_choice = teacher or CopiedTeacher()
        problem = self.teacher_choice.problem(self.lora, rollout_source == "teacher" or teacher_share is not None)
        if problem := problem or source_problem(rollout_source, teacher_share, engine, generations):
            raise SettingError(problem)
        check_skipped(skip_tokens, self.max_completion_tokens)
        self.rollout_source = rollout_source
        self.teacher_share = teacher_share
        self.generations = generations
        self.divergence = divergence or ForwardKL()
        self.teacher_template = TEMPLATES[privileged_context] if teacher_template is None else teacher_template
        self.teacher_fields = template_fields(self.teacher_template, privileged_context)
        self.max_teacher_prompt_tokens = max_teacher_prompt_tokens
        self.skip_tokens = skip_tokens
        self.sampling = sampling
        temperature = loss_temperature or sampling.temperature or 1.0
        self.temperatures = {"temperature": temperature, "teacher_temperature": teacher_temperature}
        self.engine = engine or InProcessEngine()
        if problem := self.engine.problem(sampling):
            raise SettingError(problem)
        check_thinking(self.tokenizer.thoughts, focus, self.engine)
        self.importance = importance
        self.reduction = reduction
        self.focus = focus

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        """Algorithm 1 of [1]: rollout, teacher, student, divergence; the optimizer and EMATeacher do the rest."""
        self.fill(batch.group)
        with self.clock.phase("teacher"):
            teacher_hidden = self.teacher.hidden(batch.teacher_sequences, self.prefixes.teacher)
        with self.clock.phase("student"):
            student_hidden = self.policy.hidden(batch.student_sequences, prefix=self.prefixes.student)
            loss = partial(distillation_loss, student_hidden, self.policy.head, teacher_hidden, self.teacher.head)
            loss = partial(loss, divergence=self.divergence.at(self.global_step), **self.temperatures)
            weights = self.weights(batch, self.importance_weights(batch, student_hidden))
            if self.focus is not None:
                weights *= focus_factors(self.focus, batch, self.skip_tokens, self.teacher, teacher_hidden, loss)
            result = loss(weights)
        total = result.loss + self.retained_loss(batch)
        return self.finish_step(batch, total, result, weights, DIAGNOSTICS)

    # The parts of a step

    def fill(self, group: Group) -> None:
        """Sample completions for a whole group, at its first micro-batch, and put them behind the models' prompts."""
        if group.items:
            return
        with self.clock.phase("rollout"):
            rollouts = self.sample(group.examples)
        student = self.student_sequences(group.examples, rollouts)
        teacher = self.teacher_sequences(group.examples, rollouts)
        tokens = mean_tokens([len(each) for each in self.in_loss(rollouts)], self.device, self.skip_tokens)
        warn_of_nothing(tokens, self.skip_tokens)
        # Sorts by the teacher's sequences, which are the longer ones.
        group.fill(list(map(Item, repeated(group.examples, self.generations), student, teacher, rollouts)), tokens)
        self.means.add_rollouts(rollouts, self.clock.seconds["rollout"])
        self.share_prefixes(group, self.teacher)

    def sample(self, examples: Sequence[Example]) -> list[Rollout]:
        """The completions of examples from ``rollout_source``, ``generations`` of each, one example after the other."""
        if self.rollout_source == "demonstration":
            return [demonstrated(example, self.tokenizer) for example in examples]
        if self.rollout_source == "teacher":
            return self.teacher_responds(examples)
        count = 0 if self.teacher_share is None else self.teacher_share.count(len(examples), self.global_step)
        return [*self.teacher_responds(examples[:count]), *self.respond(examples[count:], self.generations)]

    def teacher_responds(self, examples: Sequence[Example]) -> list[Rollout]:
        """The teacher's answers to examples, shown what only it sees."""
        sample = partial(generate, self.teacher.policy, sampling=self.sampling)
        return self.answers(sample, [self.teacher_messages(example) for example in examples], self.generations)

    def respond(self, examples: Sequence[Example], generations: int = 1) -> list[Rollout]:
        """The student's own answers to examples, from the engine: so many to each, one example after the other."""
        sample = partial(self.engine.generate, self.policy, sampling=self.sampling, step=self.global_step)
        return self.answers(sample, [example.prompt for example in examples], generations)

    def answers(self, sample: Sample, conversations: Sequence[list[Message]], generations: int) -> list[Rollout]:
        """Sampled answers to conversations: so many to each, one conversation after the other."""
        if not conversations:
            return []
        prompts = repeated(self.tokenizer.encode_all(conversations), generations)
        seeds, limit = own_seeds(len(conversations), generations), self.max_completion_tokens
        return budgeted(sample, prompts, limit, seeds, self.tokenizer.thoughts)

    def student_sequences(self, examples: Sequence[Example], rollouts: Sequence[Rollout]) -> list[TokenSequence]:
        """The student's prompts, followed by the rollouts."""
        if self.rollout_source == "student" and self.teacher_share is None:
            return list(rollouts)
        return continued(self.tokenizer.encode_all([example.prompt for example in examples]), rollouts)

    def teacher_sequences(self, examples: Sequence[Example], rollouts: Sequence[Rollout]) -> list[TokenSequence]:
        """The teacher's prompts, followed by the same rollouts."""
        shown = self.tokenizer.encode_all([self.teacher_messages(example) for example in examples])
        return continued(shown, rollouts)

    def teacher_messages(self, example: Example) -> list[Message]:
        """The conversation that the teacher sees."""
        return teacher_messages(example, self.teacher_template)

    def weights(self, batch: MicroBatch, importance: Tensor | None = None) -> Tensor:
        """Weights of the completion tokens of a micro-batch, `(N,)`."""
        return token_weights(
            batch.completion_lengths,
            self.reduction,
            self.skip_tokens,
            group_lengths=batch.group.completion_lengths,
            importance=importance,
            group_tokens=batch.group.tokens,
            places=self.in_loss(batch.student_sequences),
        ).to(self.device)

    def importance_weights(self, batch: MicroBatch, student_hidden: Tensor) -> Tensor | None:
        """Importance weights of the tokens of a micro-batch, `(N,)`; ``None`` if the student itself sampled them."""
        if self.engine.exact:
            return None
        student, sampler = score_rollouts(batch.rollouts, student_hidden, self.policy.head, self.sampling)
        ratios = self.importance.ratios(student, sampler)
        self.means.add("rollout/importance", ratios.mean(), len(ratios))
        self.means.add("rollout/importance_truncated", (ratios == self.importance.cap).float().mean(), len(ratios))
        return self.importance(student, sampler, batch.completion_lengths, self.skip_tokens)

    # Before training

    def setup(self, stage: str) -> None:
        """Refuse demonstrations of which no token would be in the loss."""
        super().setup(stage)
        datamodule = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and datamodule is not None and self.rollout_source == "demonstration":
            check_demonstrations(datamodule.splits.train, self.tokenizer, self.skip_tokens)

    def load_models(self) -> None:
        """Load student and teacher."""
        super().load_models()
        self.teacher = self.teacher_choice.build(self.policy, self.lora, self.attention, self.trust_remote_code)
        if isinstance(self.teacher, OffloadedTeacher):
            leave_out_of_ddp(self, "teacher")

    def shard_models(self, mesh: DeviceMesh) -> None:
        """Shard student and teacher in the same way, so that the EMA can combine their shards."""
        super().shard_models(mesh)
        self.teacher.shard_(mesh)
        if isinstance(self.teacher, FullTeacher):
            check_alike(self.teacher.policy, self.policy)

    def on_fit_start(self) -> None:
        """Start the teacher from the student's weights, unless training resumes from a checkpoint."""
        if self.trainer.ckpt_path is None and self.teacher_choice.model is None:
            self.teacher.start_from(self.policy)
        moves = any(isinstance(callback, TeacherUpdate) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        if isinstance(self.teacher_choice, CopiedTeacher) and not moves:
            rank_zero_info("Neither EMATeacher nor GatedTeacher is among the callbacks: the teacher stays frozen.")
        if self.generations > 1:
            say_of_rows(self.policy, self.teacher.policy)
        with self.trainer.precision_plugin.forward_context():
            self.engine.start(self.policy, self.max_prompt_tokens + self.max_completion_tokens)

    def teardown(self, stage: str) -> None:
        """Stop the engine."""
        super().teardown(stage)
        self.engine.stop()

    @property
    def longest_sequence(self) -> int:
        """The longest sequence in tokens that the budgets allow."""
        return max(self.max_prompt_tokens, self.max_teacher_prompt_tokens) + self.max_completion_tokens

    def missing(self, example: Example) -> str | None:
        """What an example lacks to be trained on, or ``None``."""
        if self.rollout_source == "demonstration" and not example.demonstration:
            return "demonstration"
        shown = [field for field in ("demonstration", "context") if field in self.teacher_fields]
        return next((field for field in shown if not getattr(example, field)), None)

    def training_problem(self, example: Example) -> str | None:
        """Why an example does not fit one of the budgets, or ``None``."""
        if self.rollout_source == "demonstration" and (problem := self.completion_problem(example)) is not None:
            return problem
        length, budget = len(self.tokenizer.encode(self.teacher_messages(example))), self.max_teacher_prompt_tokens
        if length <= budget:
            return super().training_problem(example)
        prompt = len(self.tokenizer.encode(example.prompt))
        said = f"its teacher prompt has {length} tokens ({prompt} of them the prompt itself)"
        return f"{said}, max_teacher_prompt_tokens={budget}"
