"""Prior tasks with the real harness, on task files with local data."""

from __future__ import annotations

import os
import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_sdft.errors import PriorTaskError
from lightning_sdft.evaluation import PriorScore, PriorScores, PriorSuite
from lightning_sdft.policy import Policy
from tests.evaluation.task_files import folder, skills

__all__ = ["folder"]


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
    wrong = {f"skills-{index}" for index, row in enumerate(skills()) if row["label"]}  # the model knows better
    assert {name for name, right in scores.verdicts["skills"].items() if not right} == wrong
    assert len(scores.verdicts["skills"]) == len(scores.verdicts["written"]) == 12


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
    assert {name: len(each) for name, each in scores.verdicts.items()} == {"skills_few": 4, "written:exact_match": 6}


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
    verdicts = suite.evaluate(laptop).verdicts["skills_group"]
    assert sum(verdicts.values()) / len(verdicts) == pytest.approx(0.75)
    assert {name.rpartition("-")[0] for name in verdicts} == {"skills_few", "skills_many"}
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
