"""Task files of lm-evaluation-harness with their data beside them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = ["folder", "skills", "write_task"]


def write_task(folder: Path, task: str, rows: list[dict[str, Any]], **config: Any) -> None:
    """A task file with its data beside it."""
    data = folder / f"{task}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {"test": str(data)}}}
    splits = {"test_split": "test", "validation_split": None, "training_split": None}
    (folder / f"{task}.yaml").write_text(yaml.safe_dump({"task": task, **source, **splits, **config}))


METRICS = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
PROMPT = "<user> {{skill}} {{letters}} <assistant>"


def skills(count: int = 12) -> list[dict[str, Any]]:
    """Questions that the laptop model can answer, every fourth of them with a wrong answer as the right one."""
    generator, rows = random.Random(0), []
    for index in range(count):
        letters = generator.sample("abcdefgh", 4)
        skill, right = (("copy", letters), ("reverse", letters[::-1]))[index % 2]
        wrong = [letters[1:] + letters[:1], letters[::-1] if skill == "copy" else letters]
        choices = [" ".join(each) for each in (right, *wrong)]
        rows.append({"skill": skill, "letters": " ".join(letters), "choices": choices, "label": int(index % 4 == 3)})
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Task files: multiple choice, text, log-likelihood of text, code execution, and a group."""
    path = tmp_path / "tasks"
    path.mkdir()
    choice = {"doc_to_text": PROMPT, "doc_to_choice": "choices", "doc_to_target": "label", "metric_list": METRICS}
    write_task(path, "skills", skills(), output_type="multiple_choice", **choice)
    small = {**choice, "metric_list": METRICS[:1]}
    write_task(path, "skills_few", skills(4), output_type="multiple_choice", **small)
    write_task(path, "skills_many", skills(12), output_type="multiple_choice", **small)
    group = {
        "task": ["skills_few", "skills_many"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (path / "group.yaml").write_text(yaml.safe_dump({"group": "skills_group", **group}))
    written = {
        "doc_to_text": PROMPT,
        "doc_to_target": "{{choices[label]}}",
        "generation_kwargs": {"until": ["<end>"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    write_task(path, "written", skills(), output_type="generate_until", **written)
    perplexity = {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}
    rolling = {"doc_to_text": "", "doc_to_target": "letters", "metric_list": [perplexity]}
    write_task(path, "letters", skills(), output_type="loglikelihood_rolling", **rolling)
    write_task(path, "runs_code", skills(), output_type="generate_until", unsafe_code=True, **written)
    with_function = (path / "runs_code.yaml").read_text()
    (path / "code.py").write_text(CODE)
    function = (
        "metric_list:\n- metric: !function code.pass_at_k\n  aggregation: mean\n  higher_is_better: true\n  k: [1]\n"
    )
    plain = yaml.safe_dump({"metric_list": written["metric_list"]})
    assert plain in with_function
    (path / "runs_code.yaml").write_text(with_function.replace(plain, function))
    return path


CODE = """
import os

assert os.environ.get("HF_ALLOW_CODE_EVAL") == "1"


def pass_at_k(references, predictions, k):
    assert os.environ.get("HF_ALLOW_CODE_EVAL") == "1"
    return {"pass@1": float(predictions[0].strip() == references[0])}
"""
