"""Tasks that draw by themselves, such as those that shuffle options, must ask the same each time."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_sdft.evaluation import PriorSuite
from lightning_sdft.policy import Policy

TASK = {
    "task": "drawn",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "<user> copy {{letter}} <assistant>",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": 0,
}


def test_every_evaluation_begins_with_the_same_generators(
    tmp_path: Path, llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def evaluate(*args: Any, **options: Any) -> dict[str, Any]:
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        return {
            "results": {"drawn": {"acc,none": 1.0, "sample_len": 1}},
            "samples": {"drawn": []},
            "higher_is_better": {},
        }

    monkeypatch.setattr("lm_eval.evaluator.evaluate", evaluate)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"letter": "a"}) + "\n")
    files = {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    (tmp_path / "drawn.yaml").write_text(yaml.safe_dump(TASK | files))
    suite = PriorSuite(["drawn"], str(tmp_path))
    for seed in range(2):
        for generator in (random.seed, np.random.seed, torch.manual_seed):
            generator(seed)
        suite.evaluate(llama)
    assert drawn[0] == drawn[1]
