"""Public benchmarks before and after training: what a model has forgotten.

They run through the lm-evaluation-harness (extra ``eval``) on the policy in memory, with the task's own number of
examples in the prompt (none in the paper's tasks) and without a chat template, as in the paper.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_sdft.errors import PriorTaskError
from lightning_sdft.evaluation.prior_scores import PriorScore, PriorScores
from lightning_sdft.policy import Policy

__all__ = ["PAPER_TASKS", "PriorSuite"]

PAPER_TASKS = ("hellaswag", "mmlu", "truthfulqa", "winogrande", "humaneval", "ifeval")
"""The six benchmarks of the paper; their unweighted mean is its measure of prior abilities."""

SUB_METRICS = {
    "hellaswag": ("hellaswag", "acc"),  # not acc_norm, which is 18 points higher
    "mmlu": ("mmlu", "acc"),
    "truthfulqa": ("truthfulqa_mc1", "acc"),  # not mc2, 17 points higher
    "winogrande": ("winogrande", "acc"),
    "humaneval": ("humaneval", "pass@1"),
    "ifeval": ("ifeval", "prompt_level_strict_acc"),
}
"""The harness's task and metric behind each name. The paper does not state the metrics: they follow from its values of
the base model, Qwen2.5-7B-Instruct, but for IFEval, where no metric gives the paper's 74.3 without a chat template."""

ALLOW_CODE = "HF_ALLOW_CODE_EVAL"
"""The variable by which the metric that runs code is told that it may."""

SEED = 1234
"""Of all random number generators during an evaluation: the default of the harness."""


class PriorSuite:
    """Tasks of the lm-evaluation-harness, loaded once and run as often as one likes.

    Args:
        tasks: Names of tasks: the paper's (``hellaswag``, ``mmlu``, ``truthfulqa``, ``winogrande``, ``humaneval``,
            ``ifeval``), whose metrics are given; others by the harness's name, of which the first metric counts, or
            ``<task>:<metric>``.
        include_path: Folder of task files (YAML) of your own, which take precedence over the harness's. A file that
            names local data (``dataset_path: json`` and ``dataset_kwargs: {data_files: ...}``) needs no hub.
        allow_code_execution: Names of tasks that may run what the model writes, on this machine and with the rights of
            this process, such as ``humaneval``.

    Raises:
        PriorTaskError: If a task is unknown, cannot be loaded, or would run code without being allowed to.
    """

    @isolate_rng()  # the harness draws even to name a task
    def __init__(
        self,
        tasks: Sequence[str] = PAPER_TASKS,
        include_path: str | None = None,
        allow_code_execution: Sequence[str] = (),
    ) -> None:
        try:
            from lm_eval.tasks import TaskManager
        except ModuleNotFoundError as error:
            raise PriorTaskError("prior tasks need lm-eval: pip install 'lightning-sdft[eval]'") from error
        names = [name.strip() for name in tasks]
        if not names or len(set(names)) < len(names):
            raise PriorTaskError(f"tasks={list(tasks)}: name at least one task, and each of them once")
        self.asked = {name: _task_and_metric(name) for name in names}
        self.allow_code_execution = tuple(allow_code_execution)
        self.tasks: dict[str, Any] = {}
        # Without the harness's own tasks if possible, for it takes seconds to read their thousands of files.
        manager = TaskManager(include_path=include_path, include_defaults=include_path is None)
        if any(None in _configs(manager.task_index, task).values() for task, _ in self.asked.values()):
            manager = TaskManager(include_path=include_path)
        for name, (task, _) in self.asked.items():
            if task not in self.tasks:
                configs = _configs(manager.task_index, task)
                if missing := [each for each, config in configs.items() if config is None]:
                    place = "" if include_path is None else f" and not in the folder include_path={include_path!r}"
                    raise PriorTaskError(f"task {missing[0]!r} is not in lm-eval {version('lm-eval')}{place}")
                self._check_code(name, [each for each, config in configs.items() if (config or {}).get("unsafe_code")])
                self.tasks[task] = self._load(manager, task)
                self._check_code(
                    name, [leaf.task_name for leaf in _leaves(self.tasks[task]) if getattr(leaf, "UNSAFE_CODE", False)]
                )

    @isolate_rng()
    def evaluate(
        self, policy: Policy, limit: int | None = None, batch_tokens: int = 16384, progress: bool = False
    ) -> PriorScores:
        """Run the tasks. Random number generators and the policy are afterwards as they were.

        In a distributed run the processes share the work, so each has to call this, with equal weights.

        Args:
            policy: The policy.
            limit: Questions of each task (of each subject of MMLU) that are asked at most, the first ones.
            batch_tokens: Tokens that are read at once, padding included.
            progress: Whether to show progress bars.

        Raises:
            PriorTaskError: If a task does not report the metric that was asked for.
        """
        from lm_eval.evaluator import evaluate

        from lightning_sdft.evaluation.harness import PolicyLM

        if limit is not None and limit < 1:
            raise PriorTaskError(f"limit={limit} is not a positive number of questions; leave it out to ask all")
        tasks = {leaf.task_name: leaf for task in self.tasks.values() for leaf in _leaves(task)}
        groups = {group.name: group for task in self.tasks.values() for group in _groups(task)}
        with self._code_allowed():
            random.seed(SEED)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            for task in tasks.values():
                if task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
                task.set_fewshot_seed(seed=SEED)
            results = evaluate(
                PolicyLM(policy, batch_tokens, progress),
                {"tasks": tasks, "groups": groups},
                limit=limit,
                log_samples=False,
                confirm_run_unsafe_code=bool(self.allow_code_execution),
            )
        scores = tuple(_score(name, task, metric, results) for name, (task, metric) in self.asked.items())
        return PriorScores(scores, limit, version("lm-eval"))

    def _load(self, manager: Any, task: str) -> Any:
        """A task or group with its data."""
        try:
            with self._code_allowed():
                loaded = manager.load([task])
        except ModuleNotFoundError as error:
            raise PriorTaskError(
                f"task {task!r} needs the package {error.name!r}: pip install 'lightning-sdft[eval]'"
            ) from error
        except Exception as error:  # a task file may run anything on the way to its data
            raise PriorTaskError(
                f"task {task!r} cannot be loaded: {error}. Without the hub and without its cache, write a task file "
                "that names local data (dataset_path: json, dataset_kwargs: {data_files: ...}) and give its folder as "
                "include_path"
            ) from error
        found = loaded.get("groups", {}).get(task) or loaded["tasks"].get(task)
        if found is None:
            raise PriorTaskError(
                f"{task!r} is a tag without a score of its own; name its tasks: {sorted(loaded['tasks'])}"
            )
        return found

    def _check_code(self, name: str, unsafe: Sequence[str]) -> None:
        """Refuse tasks that would run code without being allowed to."""
        allowed = self.allow_code_execution
        if name not in allowed and (refused := [each for each in unsafe if each not in allowed]):
            raise PriorTaskError(
                f"task {refused[0]!r} runs what the model writes, on this machine and with the rights of this process; "
                f"if that is what you want, give allow_code_execution=[{refused[0]}], otherwise leave the task out"
            )

    @contextmanager
    def _code_allowed(self) -> Iterator[None]:
        """Let the metric that runs code run, where a task was allowed to."""
        before = os.environ.get(ALLOW_CODE)
        if self.allow_code_execution:
            os.environ[ALLOW_CODE] = "1"
        try:
            yield
        finally:
            os.environ.pop(ALLOW_CODE, None)
            if before is not None:
                os.environ[ALLOW_CODE] = before


def _task_and_metric(name: str) -> tuple[str, str | None]:
    """The harness's task and metric behind a name; ``None`` for the first metric."""
    if name in SUB_METRICS:
        return SUB_METRICS[name]
    task, _, metric = name.partition(":")
    return task, metric or None


def _configs(index: Any, name: str) -> dict[str, dict[str, Any] | None]:
    """Configs of a task, or of a group and all that is in it, by name; ``None`` for what is not there."""
    if name not in index:
        return {name: None}
    entry = index[name]
    config = entry.cfg or {}
    children = config.get("task") if entry.cfg is not None else sorted(entry.tags)  # a tag has no config
    configs: dict[str, dict[str, Any] | None] = {name: config}
    for child in children if isinstance(children, list) else []:
        configs |= _configs(index, child) if isinstance(child, str) else {str(child.get("task")): child}
    return configs


def _leaves(task: Any) -> list[Any]:
    return list(task.get_all_tasks()) if hasattr(task, "get_all_tasks") else [task]


def _groups(task: Any) -> list[Any]:
    return [task, *task.get_all_groups()] if hasattr(task, "get_all_groups") else []


def _score(name: str, task: str, metric: str | None, results: dict[str, Any]) -> PriorScore:
    """A task's score among the harness's results, where keys are ``<metric>,<filter>``."""
    values = results["results"][task]
    keys = [key.split(",") for key in values if "," in key and "_stderr," not in key]
    chosen = next(((each, of) for each, of in keys if metric in (None, each)), None)
    if chosen is None:
        reported = ", ".join(f"{each}={values[f'{each},{of}']}" for each, of in keys)
        raise PriorTaskError(f"task {task!r} reports no metric {metric!r}; it reports {reported or 'none'}")
    stderr = values.get(f"{chosen[0]}_stderr,{chosen[1]}")
    return PriorScore(
        name,
        f"{task}:{chosen[0]}",
        float(values[",".join(chosen)]),
        float(stderr) if isinstance(stderr, float | int) else None,
        int(values["sample_len"]),
        results["higher_is_better"].get(task, {}).get(chosen[0]) is not False,
    )
