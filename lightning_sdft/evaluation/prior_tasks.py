"""Public benchmarks, run before and after training to measure what a model has forgotten.

They are run by the lm-evaluation-harness (extra ``eval``) on the policy in memory, with each task's own number of
few-shot examples (none in the paper's tasks) and without a chat template, as in the paper.
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
from lightning_sdft.settings import Count, check_ranges

__all__ = ["PAPER_TASKS", "PriorSuite"]

PAPER_TASKS = ("hellaswag", "mmlu", "truthfulqa", "winogrande", "humaneval", "ifeval")
"""The six benchmarks of the paper, which measures prior abilities by their unweighted mean."""

SUB_METRICS = {
    "hellaswag": ("hellaswag", "acc"),  # not acc_norm, which is 18 points higher
    "mmlu": ("mmlu", "acc"),
    "truthfulqa": ("truthfulqa_mc1", "acc"),  # not mc2, 17 points higher
    "winogrande": ("winogrande", "acc"),
    "humaneval": ("humaneval", "pass@1"),
    "ifeval": ("ifeval", "prompt_level_strict_acc"),
}
"""The harness's task and metric for each name. The paper does not state its metrics. These are the ones that reproduce
its values for the base model, Qwen2.5-7B-Instruct, except for IFEval: without a chat template, no metric gives the
paper's 74.3."""

ALLOW_CODE = "HF_ALLOW_CODE_EVAL"
"""The environment variable that allows the ``code_eval`` metric to run code."""

SEED = 1234
"""Seed of all random number generators during an evaluation, the harness's default."""


class PriorSuite:
    """Tasks of the lm-evaluation-harness, loaded once and run any number of times.

    Args:
        tasks: Names of tasks: the paper's (``hellaswag``, ``mmlu``, ``truthfulqa``, ``winogrande``, ``humaneval``,
            ``ifeval``), for which the metric is chosen for you, or any task of the harness as ``<task>:<metric>``;
            without a metric the task's first one is used.
        include_path: Folder of your own task files (YAML), which take precedence over the harness's. A file that
            refers to local data (``dataset_path: json`` and ``dataset_kwargs: {data_files: ...}``) does not need the
            hub.
        allow_code_execution: Names of tasks, such as ``humaneval``, that may run code written by the model, on this
            machine and with the permissions of this process.

    Raises:
        PriorTaskError: If a task is unknown, cannot be loaded, or would run code without being allowed to.
    """

    @isolate_rng()  # the harness draws random numbers even to name a task
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
        # Skip the harness's own tasks if none is asked for, because reading their thousands of files takes seconds.
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
        self, policy: Policy, limit: Count | None = None, batch_tokens: Count = 16384, progress: bool = False
    ) -> PriorScores:
        """Run the tasks. The policy and the states of the random number generators are the same afterwards.

        In a distributed run the processes share the work, so every process must call this, with equal weights.

        Args:
            policy: The policy.
            limit: Ask only the first ``limit`` questions of each task (of each subject of MMLU).
            batch_tokens: Maximum number of tokens in a batch, including padding.
            progress: Whether to show progress bars.

        Raises:
            PriorTaskError: If a task does not report the requested metric.
        """
        from lm_eval.evaluator import evaluate

        from lightning_sdft.evaluation.harness import PolicyLM

        check_ranges(PriorSuite.evaluate, locals())
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
                log_samples=True,
                confirm_run_unsafe_code=bool(self.allow_code_execution),
            )
        scores = tuple(_score(name, task, metric, results) for name, (task, metric) in self.asked.items())
        verdicts = {name: self._verdicts(task, metric, results) for name, (task, metric) in self.asked.items()}
        return PriorScores(scores, limit, version("lm-eval"), {name: each for name, each in verdicts.items() if each})

    def _verdicts(self, task: str, metric: str | None, results: dict[str, Any]) -> dict[str, bool]:
        """Whether each question of a task was answered right; none if a score is neither 0 nor 1."""
        name, filtered = _chosen(task, metric, results)
        found = {
            f"{leaf.task_name}-{sample['doc_id']}": sample.get(name)
            for leaf in _leaves(self.tasks[task])
            for sample in results["samples"][leaf.task_name]
            if sample["filter"] == filtered
        }
        return {each: bool(value) for each, value in found.items()} if all(v in (0, 1) for v in found.values()) else {}

    def _load(self, manager: Any, task: str) -> Any:
        """Load a task or a group of tasks with its data."""
        try:
            with self._code_allowed():
                loaded = manager.load([task])
        except ModuleNotFoundError as error:
            raise PriorTaskError(
                f"task {task!r} needs the package {error.name!r}: pip install 'lightning-sdft[eval]'"
            ) from error
        except Exception as error:  # a task file may run any code to load its data
            raise PriorTaskError(
                f"task {task!r} cannot be loaded: {error}. If neither the hub nor its cache has the data, write a task "
                "file that refers to local data (dataset_path: json, dataset_kwargs: {data_files: ...}) and give its "
                "folder as include_path"
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
                f"task {refused[0]!r} runs what the model writes, on this machine and with the permissions of this "
                f"process; if you want that, give allow_code_execution=[{refused[0]}], otherwise leave the task out"
            )

    @contextmanager
    def _code_allowed(self) -> Iterator[None]:
        """Allow the ``code_eval`` metric to run code, if ``allow_code_execution`` names a task."""
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
    """The harness's task and metric for a name; the metric is ``None`` for the task's first one."""
    if name in SUB_METRICS:
        return SUB_METRICS[name]
    task, _, metric = name.partition(":")
    return task, metric or None


def _configs(index: Any, name: str) -> dict[str, dict[str, Any] | None]:
    """Configs by name of a task, or of a group and everything in it; ``None`` for a task that does not exist."""
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
    """Find a task's score in the harness's results."""
    values, chosen = results["results"][task], _chosen(task, metric, results)
    stderr = values.get(f"{chosen[0]}_stderr,{chosen[1]}")
    return PriorScore(
        name,
        f"{task}:{chosen[0]}",
        float(values[",".join(chosen)]),
        float(stderr) if isinstance(stderr, float | int) else None,
        int(values["sample_len"]),
        results["higher_is_better"].get(task, {}).get(chosen[0]) is not False,
    )


def _chosen(task: str, metric: str | None, results: dict[str, Any]) -> tuple[str, str]:
    """The metric and the filter of a task's score, which the harness's results have under ``<metric>,<filter>``."""
    values = results["results"][task]
    keys = [key.split(",") for key in values if "," in key and "_stderr," not in key]
    chosen = next(((each, of) for each, of in keys if metric in (None, each)), None)
    if chosen is None:
        reported = ", ".join(f"{each}={values[f'{each},{of}']}" for each, of in keys)
        raise PriorTaskError(f"task {task!r} reports no metric {metric!r}; it reports {reported or 'none'}")
    return chosen
