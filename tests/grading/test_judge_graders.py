"""Graders that ask a judge: copies, configs, and the module that trains."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

from lightning_sdft.chat import LocalChat
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.judge import JudgedAnswer, LocalJudge
from lightning_sdft.grading.judge_prompts import JudgePrompt
from lightning_sdft.modules import CausalLMModule, SFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.records import Example
from tests.chat.server import ChatServer
from tests.grading.judging import (
    REFERENCES,
    RESPONSES,
    lines,
    make_judge,
    server,
)
from tests.modules.conftest import make_trainer, question, words_data, words_module

__all__ = ["make_judge", "make_trainer", "server", "words_data", "words_module"]


def test_copies_of_graders_share_the_judge(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"prompt": "Who?", "response": "Ada", "reference": REFERENCES[0]}]))
    data = JsonDataModule(
        str(rows),
        reference_column="reference",
        validation=str(rows),
        test=str(rows),
        grader=JudgedAnswer(make_judge(folder=None)),
    )
    splits = data.load()
    graders = [each.graders["json"] for each in (*splits.validation, *splits.test)]
    assert graders[0] is not graders[1]
    for grader in graders:
        grader.update(["right"], [REFERENCES[0]])
        assert grader.compute() == 1
    assert len(server.requests) == 1
    strict, lenient = copy.deepcopy([JudgedAnswer(make_judge()), JudgedAnswer(make_judge(), ["CORRECT"])])
    strict.update(["wrong"], [REFERENCES[0]])
    assert (strict.graded, lenient.graded) == (1, 0)


def test_the_judge_of_ones_own_rows_is_told_the_question(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    asked = [{"prompt": "Who?"}, {"prompt": [*turns, {"role": "user", "content": "Who?"}]}]
    rows.write_text(json.dumps([{**each, "key": "Ada"} for each in asked]))
    grader = JudgedAnswer(make_judge(folder=None))
    (tested,) = JsonDataModule(test=str(rows), reference_column="key", grader=grader).splits.test
    assert [each.reference for each in tested.examples] == [{"question": "Who?", "answer": "Ada"}] * 2
    tested.check_references()
    given = tmp_path / "given.json"
    given.write_text(json.dumps([{**asked[0], "key": REFERENCES[0]}]))
    (tested,) = JsonDataModule(test=str(given), reference_column="key", grader=grader).splits.test
    assert tested.examples[0].reference == REFERENCES[0]


def test_judge_reads_alternatives_and_numbers(make_judge: Any, server: ChatServer) -> None:
    grader = JudgedAnswer(make_judge())
    grader.grade("right", {"question": "How many?", "answer": ["a dozen", 12.0]})
    assert "a dozen or 12" in server.requests[0].prompt


def test_grader_can_be_pickled(make_judge: Any, server: ChatServer) -> None:
    grader = JudgedAnswer(make_judge())
    grader.update(RESPONSES, REFERENCES)
    other = pickle.loads(pickle.dumps(grader))
    assert other.compute() == 0.5
    assert other.grade_all(RESPONSES, REFERENCES) == [True, False, False, True]
    assert len(server.requests) == 4


GRADER_YAML = """
grader:
  class_path: lightning_sdft.grading.judge.JudgedAnswer
  init_args:
    accepts: [CORRECT, PARTIALLY_CORRECT]
    judge:
      class_path: lightning_sdft.grading.judge.{judge}
"""


def test_from_yaml(server: ChatServer, tmp_path: Path) -> None:
    judge = f"""
      init_args:
        prompt: knowledge
        folder: {tmp_path / "judge"}
        chat:
          class_path: lightning_sdft.chat.Endpoint
          init_args: {{model: m, base_url: "{server.url}"}}
"""
    parser = ArgumentParser()
    parser.add_argument("--grader", type=Grader)
    config = parser.parse_string(GRADER_YAML.format(judge="Judge") + judge)
    grader = parser.instantiate_classes(config).grader
    assert grader.grade_all(RESPONSES, REFERENCES) == [True, True, False, True]
    assert len(lines(tmp_path / "judge" / "verdicts.jsonl")) == 4


def test_local_judge_from_yaml_with_a_prompt_of_ones_own(family_folder: Callable[[str], Path]) -> None:
    judge = f"""
      init_args:
        prompt: {{text: "w1 {{model_response}}", labels: [CORRECT, PARTIALLY_CORRECT]}}
        model: {family_folder("llama")}
"""
    parser = ArgumentParser()
    parser.add_argument("--grader", type=Grader)
    grader = parser.instantiate_classes(parser.parse_string(GRADER_YAML.format(judge="LocalJudge") + judge)).grader
    assert isinstance(grader.judge, LocalJudge)
    assert grader.judge.prompt == JudgePrompt("w1 {model_response}", ("CORRECT", "PARTIALLY_CORRECT"))
    assert grader.grade("w2", REFERENCES[0]) is None


def local_judge(folder: Path, responses: Sequence[str], kept: str | None = None) -> tuple[LocalJudge, list[str | None]]:
    """A judge whose labels are what the tiny model says of the first of the responses, and its verdicts."""
    prompts = [[{"role": "user", "content": f"w1 {response} w9"}] for response in responses]
    replies = LocalChat(str(folder), max_tokens=1).reply(prompts)  # type: ignore[arg-type]
    label = replies[0]
    assert label
    judge = LocalJudge(str(folder), JudgePrompt("w1 {model_response} w9", (label, "INCORRECT")), kept, max_tokens=1)
    return judge, [label if reply == label else None for reply in replies]


def test_local_judge_says_what_its_model_says(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    responses = [f"w{index}" for index in range(2, 40)]
    judge, expected = local_judge(family_folder("llama"), responses, str(tmp_path))
    assert judge.labels([""] * len(responses), [""] * len(responses), responses) == expected
    assert 0 < sum(label is None for label in expected) < len(expected)
    assert len(lines(tmp_path / "verdicts.jsonl")) == len(responses)  # asked once each
    policy = Policy.load(str(family_folder("llama")))
    in_memory = LocalJudge(policy, judge.prompt, max_tokens=1)
    assert in_memory.labels([""] * len(responses), [""] * len(responses), responses) == expected


def test_local_judge_is_no_part_of_the_module_that_trains(
    family_folder: Callable[[str], Path],
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
) -> None:
    judge, _ = local_judge(family_folder("llama"), ["w2"], str(tmp_path / "judge"))
    graders = {"judged": JudgedAnswer(judge, judge.prompt.labels)}
    reference = {"question": "w2", "answer": "w3"}
    examples = [Example(each.id, each.prompt, reference=reference) for each in map(question, range(4))]

    def fit(validation: list[EvaluationSet]) -> tuple[Any, dict[str, Any]]:
        trainer = make_trainer(max_steps=2, limit_val_batches=1.0, num_sanity_val_steps=-1)
        module = words_module(SFTModule)
        trainer.fit(module, datamodule=words_data(validation=validation))
        path = tmp_path / f"{len(validation)}.ckpt"
        trainer.save_checkpoint(path)
        return module, torch.load(path, weights_only=True)

    module, checkpoint = fit([EvaluationSet(examples, graders)])
    plain_module, plain = fit([])
    assert judge.chat._policy is not None  # type: ignore[attr-defined]
    assert len(lines(tmp_path / "judge" / "responses.jsonl")) >= 4
    assert checkpoint["state_dict"].keys() == plain["state_dict"].keys()
    assert len(list(module.parameters())) == len(list(plain_module.parameters()))
    assert str(family_folder("llama")) not in repr(nn.ModuleList([graders["judged"]]))
    judging = {parameter.data_ptr() for parameter in judge.chat.policy.parameters()}  # type: ignore[attr-defined]
    assert judging.isdisjoint(parameter.data_ptr() for parameter in module.parameters())
