"""Prior tasks with the real harness, on task files with local data."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pytest
import torch
import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM

from lightning_sdft.errors import PriorTaskError
from lightning_sdft.evaluation import PAPER_TASKS, PriorScore, PriorScores, PriorSuite
from lightning_sdft.evaluation.prior_tasks import SUB_METRICS
from lightning_sdft.policy import Policy

HARNESS = Path(lm_eval.tasks.__file__).parent


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


@pytest.fixture(scope="module")
def laptop() -> Policy:
    return Policy.load("zoo/laptop")


def accuracy(policy: Policy, rows: list[dict[str, Any]]) -> float:
    """Of the answers that are the most probable ones as a whole, by transformers directly."""
    tokenizer, right = policy.tokenizer.hugging_face, 0
    for row in rows:
        prompt = tokenizer.encode(f"<user> {row['skill']} {row['letters']} <assistant>")
        sums = []
        for choice in row["choices"]:
            answer = tokenizer.encode(choice)
            with torch.no_grad():
                logits = policy.model.eval()(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            sums.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum().item())
        right += max(range(3), key=sums.__getitem__) == row["label"]
    return right / len(rows)


def test_scores_are_those_of_the_most_probable_answers(folder: Path, laptop: Policy) -> None:
    scores = PriorSuite(["skills", "written"], str(folder)).evaluate(laptop)
    expected = accuracy(laptop, skills())
    assert expected == 0.75  # the laptop model knows the skills
    choice, written = scores.scores
    error = (0.75 * 0.25 / 11) ** 0.5
    assert choice == PriorScore("skills", "skills:acc", 0.75, pytest.approx(error), 12)
    assert choice.interval == pytest.approx((0.75 - 1.96 * error, 0.75 + 1.96 * error))
    assert written == PriorScore("written", "written:exact_match", 0.75, pytest.approx(error), 12)
    assert scores.average.score == pytest.approx(0.75)
    assert scores.averaged == ("skills", "written")
    assert (scores.limit, scores.lm_eval_version) == (None, version("lm-eval"))


def test_average_is_unweighted_and_without_what_is_better_when_lower(folder: Path, laptop: Policy) -> None:
    scores = PriorSuite(["skills_few", "written:exact_match", "letters"], str(folder)).evaluate(laptop, limit=6)
    few, written, letters = scores.scores
    assert (few.questions, written.questions, letters.questions) == (4, 6, 6)
    assert few.score == 0.75
    assert written.score == pytest.approx(5 / 6)
    assert letters.metric == "letters:word_perplexity"
    assert letters.score > 1
    assert scores.averaged == ("skills_few", "written:exact_match")
    assert scores.average.score == pytest.approx((0.75 + 5 / 6) / 2)
    assert scores.average.stderr == pytest.approx((few.stderr**2 + written.stderr**2) ** 0.5 / 2)
    assert PriorScores((letters,), None, "").average is None


def test_metric_can_be_named_and_a_missing_one_is_refused_with_what_there_is(folder: Path, laptop: Policy) -> None:
    scores = PriorSuite(["skills:acc_norm", "skills:acc"], str(folder)).evaluate(laptop, limit=4)
    assert [score.metric for score in scores.scores] == ["skills:acc_norm", "skills:acc"]
    with pytest.raises(PriorTaskError, match=r"'skills' reports no metric 'f1'; it reports acc=0.75, acc_norm=0.75"):
        PriorSuite(["skills:f1"], str(folder)).evaluate(laptop, limit=4)


def test_group_has_the_score_over_all_its_questions(folder: Path, laptop: Policy) -> None:
    suite = PriorSuite(["skills_group"], str(folder))
    (score,) = suite.evaluate(laptop).scores
    assert score.metric == "skills_group:acc"
    assert score.questions == 16
    assert score.score == pytest.approx(0.75)
    assert suite.evaluate(laptop, limit=2).scores[0].questions == 4  # and the suite can be run again


def test_generators_policy_and_environment_are_left_as_they_were(folder: Path, laptop: Policy) -> None:
    laptop.train()
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(7)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    PriorSuite(["skills", "runs_code"], str(folder), ["runs_code"]).evaluate(laptop, limit=2)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert laptop.training
    assert laptop.model.training
    assert "HF_ALLOW_CODE_EVAL" not in os.environ


def test_sampling_does_not_depend_on_generators(folder: Path, laptop: Policy) -> None:
    config = yaml.safe_load((folder / "written.yaml").read_text())
    config["generation_kwargs"] |= {"do_sample": True, "temperature": 2.0}
    (folder / "written.yaml").write_text(yaml.safe_dump(config))
    suite = PriorSuite(["written"], str(folder))
    scores = []
    for seed in range(3):
        torch.manual_seed(seed)
        scores.append(suite.evaluate(laptop))
    assert 0 < scores[0].scores[0].score < 0.75
    assert scores[0] == scores[1] == scores[2]


def test_task_that_runs_code_is_refused_unless_allowed_by_name(
    folder: Path, laptop: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "0")
    message = r"'runs_code' runs what the model writes, on this machine .* give allow_code_execution=\[runs_code\]"
    for allowed in ([], ["humaneval"]):
        with pytest.raises(PriorTaskError, match=message):
            PriorSuite(["skills", "runs_code"], str(folder), allowed)
    (folder / "hidden.yaml").write_text(yaml.safe_dump({"group": "hidden", "task": ["skills_few", "runs_code"]}))
    with pytest.raises(PriorTaskError, match=message):
        PriorSuite(["hidden"], str(folder))
    (score,) = PriorSuite(["runs_code:pass@1"], str(folder), ["runs_code"]).evaluate(laptop).scores
    assert (score.metric, score.score) == ("runs_code:pass@1", 0.75)
    assert os.environ["HF_ALLOW_CODE_EVAL"] == "0"


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


@pytest.mark.parametrize("tasks", [[], ["skills", "skills "]])
def test_no_task_and_a_task_twice_are_refused(tasks: list[str], folder: Path) -> None:
    with pytest.raises(PriorTaskError, match="at least one task, and each of them once"):
        PriorSuite(tasks, str(folder))


def test_tag_is_refused_with_its_tasks(folder: Path) -> None:
    for name in ("skills_few", "skills_many"):
        config = yaml.safe_load((folder / f"{name}.yaml").read_text())
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**config, "tag": "some_skills"}))
    with pytest.raises(PriorTaskError, match=r"'some_skills' is a tag .*\['skills_few', 'skills_many'\]"):
        PriorSuite(["some_skills"], str(folder))


def test_limit_must_be_positive(folder: Path, laptop: Policy) -> None:
    with pytest.raises(PriorTaskError, match="limit=0 is not a positive number of questions"):
        PriorSuite(["skills"], str(folder)).evaluate(laptop, limit=0)


# The paper's own tasks: the harness's definitions, with a few rows of our own in the published shape.

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
