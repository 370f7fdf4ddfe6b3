"""How many tokens a step reads: as many as the budgets allow, or as many as there are in the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.errors import DataError
from lightning_sdft.modules import CausalLMModule, CPTModule, DistillationModule, SDPOModule, SFTModule
from lightning_sdft.modules.checks import naming
from lightning_sdft.modules.examples import leave_out_bad_rows
from lightning_sdft.records import Example, Rollout, TokenSequence
from lightning_sdft.rollout import ContinuousEngine, InProcessEngine

__all__ = ["Lengths", "lengths_by_budgets", "lengths_by_data"]


@dataclass(frozen=True)
class Lengths:
    """The largest numbers of tokens that one process reads and writes at once.

    Args:
        student: Tokens of prompt and completion, for each example of a micro-batch.
        teacher: The same for what the teacher reads; empty without a teacher.
        sampled: Tokens of each prompt of an optimizer step; empty if nothing is sampled.
        evaluated: Tokens of each prompt of an evaluation batch; empty without evaluation.
        completion: Tokens of the longest response.
        micro_batches: Micro-batches in an optimizer step.
        generations: Completions of each prompt.
        image: Tokens of images in a prompt, as many as any has; each is taken to have so many.
    """

    student: Sequence[tuple[int, int]]
    teacher: Sequence[tuple[int, int]] = field(default=())
    sampled: Sequence[int] = field(default=())
    evaluated: Sequence[int] = field(default=())
    completion: int = 0
    micro_batches: int = 1
    generations: int = 1
    image: int = 0


def lengths_by_budgets(
    module: CausalLMModule, datamodule: DemonstrationDataModule, processes: int, evaluated: int
) -> Lengths:
    """The lengths that the budgets allow: every prompt and every completion is as long as its budget.

    Args:
        module: The module, which has the budgets.
        datamodule: The data module, which has the batch sizes.
        processes: Number of processes that share a step.
        evaluated: Number of prompts in an evaluation batch.
    """
    group, micro = _sizes(datamodule, processes)
    prompt, completion = module.max_prompt_tokens, module.max_completion_tokens
    student = (1 if isinstance(module, CPTModule) else prompt, completion)
    teacher: list[tuple[int, int]] = []
    sampled: list[int] = []
    if isinstance(module, DistillationModule):
        teacher = [(module.max_teacher_prompt_tokens, completion)] * micro
        budgets = {"student": prompt, "teacher": module.max_teacher_prompt_tokens}
        sampled = [budgets[module.rollout_source]] * group if _samples(module) else []
    generations, image = getattr(module, "generations", 1), 0 if module.tokenizer.images is None else prompt
    evaluates = [prompt] * evaluated
    return Lengths([student] * micro, teacher, sampled, evaluates, completion, group // micro, generations, image)


def lengths_by_data(module: CausalLMModule, datamodule: DemonstrationDataModule, processes: int) -> Lengths:
    """The lengths in the data, with the longest examples in the same batch.

    Sampled responses are assumed to be as long as their budget, because their length is not known.

    Args:
        module: The module, which decides what is read of an example.
        datamodule: The data module, whose data are read.
        processes: Number of processes that share a step.

    Raises:
        DataError: If the data cannot be read, or no training example can be trained on.
    """
    group, micro = _sizes(datamodule, processes)
    leave_out_bad_rows(datamodule, module)
    problem = naming(module.training_problem)
    examples = [each for each in datamodule.splits.train if module.missing(each) is None and not problem(each)]
    if not examples:
        raise DataError(f"none of {len(datamodule.splits.train)} training examples can be trained on")
    encode = naming(lambda each: module.tokenizer.encode(each.prompt))
    sets = [[len(encode(each)) for each in one.examples] for one in datamodule.splits.validation]
    batches = [sorted(prompts, reverse=True)[: datamodule.evaluation_batch_size] for prompts in sets]
    evaluated = max(batches, key=sum, default=[])
    longest, image = module.max_completion_tokens, 0
    if module.tokenizer.images is not None:
        image = max(sum(each.tokens for each in getattr(encode(one), "images", ())) for one in examples)
    if isinstance(module, SFTModule):
        student = _longest(module.demonstrations(examples), micro)
        return Lengths(student, evaluated=evaluated, completion=longest, micro_batches=group // micro, image=image)
    assert isinstance(module, DistillationModule)
    shown, own = _read(module, examples)
    read = shown if module.rollout_source == "teacher" else own
    sampled = sorted((len(each.prompt) for each in read), reverse=True)[:group] if _samples(module) else []
    read_lengths = _longest(own, micro), _longest(shown, micro)
    return Lengths(*read_lengths, sampled, evaluated, longest, group // micro, module.generations, image)


def _sizes(datamodule: DemonstrationDataModule, processes: int) -> tuple[int, int]:
    """Examples in an optimizer step and in a micro-batch, on one process."""
    group = datamodule.group_size(processes)
    return group, datamodule.micro_batch_size or group


def _samples(module: DistillationModule) -> bool:
    """Whether a model in this process's own memory samples rollouts."""
    return module.rollout_source != "demonstration" and isinstance(module.engine, InProcessEngine | ContinuousEngine)


def _read(
    module: DistillationModule, examples: Sequence[Example]
) -> tuple[Sequence[TokenSequence], Sequence[TokenSequence]]:
    """The teacher's and the student's sequences of examples."""
    if module.rollout_source == "demonstration":
        rollouts = module.sample(examples)
    else:
        longest = [0] * module.max_completion_tokens
        prompts = module.tokenizer.encode_all([example.prompt for example in examples])
        rollouts = [Rollout(prompt, longest, [], finished=False) for prompt in prompts]
    if isinstance(module, SDPOModule):  # what the teacher is told depends on the rollouts
        told = [TokenSequence([0] * module.max_teacher_prompt_tokens, each.completion) for each in rollouts]
        return told, module.student_sequences(examples, rollouts)
    return module.teacher_sequences(examples, rollouts), module.student_sequences(examples, rollouts)


def _longest(sequences: Sequence[TokenSequence], count: int) -> list[tuple[int, int]]:
    longest = sorted(sequences, key=len, reverse=True)[:count]
    return [(len(each.prompt), len(each.completion)) for each in longest]
