"""The paper's own tasks: the harness's definitions, with a few rows of our own in the published shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import lm_eval.tasks
import pytest
import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM

from lightning_sdft.errors import PriorTaskError
from lightning_sdft.evaluation import PAPER_TASKS, PriorSuite
from lightning_sdft.evaluation.prior_tasks import SUB_METRICS
from lightning_sdft.policy import Policy
from tests.evaluation.task_files import write_task

HARNESS = Path(lm_eval.tasks.__file__).parent


def test_harness_own_tasks_are_found_and_need_a_hub_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", cache(lm_eval.tasks.TaskManager))  # it takes seconds to read them
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"group": "own", "task": ["humaneval"]}))
    with pytest.raises(PriorTaskError, match=r"'hellaswag' cannot be loaded: .*give its folder as include_path"):
        PriorSuite(["hellaswag"], str(tmp_path))
    for task in ("humaneval", "own"):
        with pytest.raises(PriorTaskError, match=r"allow_code_execution=\[humaneval\], otherwise leave the task out"):
            PriorSuite([task], str(tmp_path))
    with pytest.raises(PriorTaskError, match=r"task 'hellaswagg' is not in lm-eval .* not in the folder include_path="):
        PriorSuite(["hellaswagg"], str(tmp_path))
    assert set(SUB_METRICS) == set(PAPER_TASKS)
    index = lm_eval.tasks.TaskManager(include_path=str(tmp_path)).task_index
    assert all(task in index for task, _ in SUB_METRICS.values())


HELLASWAG = [
    {
        "activity_label": "w1",
        "ctx_a": "w2 w3",
        "ctx_b": "w4",
        "endings": ["w5", "w6 w7", "w8", "w9"],
        "label": str(n % 4),
    }
    for n in range(6)
]
MMLU = [{"question": f"w{n} w1", "choices": ["w1", "w2", "w3", "w4"], "answer": n % 4} for n in range(6)]
TRUTHFUL = [{"question": f"w{n}", "mc1_targets": {"choices": ["w1", "w2 w3"], "labels": [1, 0]}} for n in range(6)]
WINOGRANDE = [{"sentence": f"w{n} w1 _ w3", "option1": "w4", "option2": "w5", "answer": "12"[n % 2]} for n in range(6)]
IFEVAL = [
    {
        "key": n,
        "prompt": f"w{n} w1",
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{}, {"keywords": [f"w{n}"]}],
    }
    for n in range(6)
]


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    def included(path: str) -> dict[str, str]:
        return {"include": str(HARNESS / path)}

    write_task(tmp_path, "hellaswag", HELLASWAG, **included("hellaswag/hellaswag.yaml"))
    write_task(tmp_path, "truthfulqa_mc1", TRUTHFUL, **included("truthfulqa/truthfulqa_mc1.yaml"))
    write_task(tmp_path, "winogrande", WINOGRANDE, **included("winogrande/default.yaml"))
    short = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 20}  # of what a tiny model can write
    write_task(tmp_path, "ifeval", IFEVAL, **included("ifeval/ifeval.yaml"), generation_kwargs=short)
    for subject in ("mmlu_anatomy", "mmlu_virology"):
        template = included("mmlu/default/_default_template_yaml")
        write_task(tmp_path, subject, MMLU, **template, fewshot_split="test")
    group = {"task": ["mmlu_anatomy", "mmlu_virology"], "aggregate_metric_list": [{"metric": "acc"}]}
    (tmp_path / "mmlu.yaml").write_text(yaml.safe_dump({"group": "mmlu", **group}))
    return tmp_path


def test_papers_tasks_score_as_by_the_harness_itself(paper: Path, family_folder: Callable[[str], Path]) -> None:
    policy = Policy.load(str(family_folder("llama")))
    names = [name for name in PAPER_TASKS if name != "humaneval"]
    suite = PriorSuite(names, str(paper))
    scores = {score.task: score for score in suite.evaluate(policy, limit=5).scores}
    model = HFLM(policy.model, tokenizer=policy.tokenizer.hugging_face, batch_size=1)
    theirs = simple_evaluate(
        model=model,
        tasks=["hellaswag", "mmlu", "truthfulqa_mc1", "winogrande", "ifeval"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(paper), include_defaults=False),
        limit=5,
    )["results"]
    expected = {
        "hellaswag": theirs["hellaswag"]["acc,none"],
        "mmlu": theirs["mmlu"]["acc,none"],
        "truthfulqa": theirs["truthfulqa_mc1"]["acc,none"],
        "winogrande": theirs["winogrande"]["acc,none"],
        "ifeval": theirs["ifeval"]["prompt_level_strict_acc,none"],
    }
    assert {task: score.score for task, score in scores.items()} == expected
    assert scores["mmlu"].questions == 10
    assert [score.metric for score in scores.values()] == [
        "hellaswag:acc",
        "mmlu:acc",
        "truthfulqa_mc1:acc",
        "winogrande:acc",
        "ifeval:prompt_level_strict_acc",
    ]
    assert SUB_METRICS["humaneval"] == ("humaneval", "pass@1")
    assert len(set(expected.values())) > 2
    assert not any(task.get_config("num_fewshot") for task in suite.tasks.values() if hasattr(task, "get_config"))
