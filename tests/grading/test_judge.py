from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import distributed, nn

from lightning_sdft.chat import ChatError, Endpoint, Journal, LocalChat
from lightning_sdft.data.base import EvaluationSet
from lightning_sdft.data.example import DataError, Example
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.judge import Judge, JudgedAnswer, LocalJudge
from lightning_sdft.grading.judge_prompts import JudgePrompt
from lightning_sdft.modules import CausalLMModule, SFTModule
from lightning_sdft.policy import Policy
from tests.chat.server import Answer, ChatServer, fails, says, serving
from tests.modules.conftest import make_trainer, question, words_data, words_module

__all__ = ["make_trainer", "words_data", "words_module"]

QUESTIONS = ["Who?", "Where?", "When?", "Why?"]
ANSWERS = ["Ada", "Turin", "1843", "Because"]
RESPONSES = ["right", "nearly", "wrong", "right too"]
REFERENCES = [{"question": asked, "answer": answer} for asked, answer in zip(QUESTIONS, ANSWERS, strict=True)]
LABELS = ["CORRECT", "PARTIALLY_CORRECT", "INCORRECT", "CORRECT"]


def response_in(prompt: str) -> str:
    """The model's response in a filled judge prompt."""
    return prompt.split("[Model Response]\n")[1].split("\nEvaluate the model's response.")[0]


def verdict(prompt: str, before: int = 0) -> Answer:
    """A sound judge."""
    words = {"right": "CORRECT", "nearly": "PARTIALLY_CORRECT", "wrong": "INCORRECT"}
    return says(words[response_in(prompt).split()[0]])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    for variable in ("HTTP_PROXY", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    with serving(verdict) as running:
        yield running


@pytest.fixture
def make_judge(server: ChatServer, tmp_path: Path) -> Callable[..., Judge]:
    def make(name: str = "judge-1", prompt: Any = "knowledge", folder: Any = tmp_path / "judge", **more: Any) -> Judge:
        chat = Endpoint(name, server.url, retries=1, timeout=10.0)
        return Judge(chat, prompt, None if folder is None else str(folder), **more)

    return make


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Verdicts


@pytest.mark.parametrize("folder", ["judge", None])
def test_labels_come_in_the_order_of_the_responses(folder: Any, make_judge: Any, tmp_path: Path) -> None:
    judge = make_judge(folder=folder and tmp_path / folder)
    assert judge.labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert judge.labels([], [], []) == []
    with pytest.raises(ValueError, match="shorter"):
        judge.labels(QUESTIONS, ANSWERS, RESPONSES[1:])


def test_judge_is_asked_the_whole_prompt_in_one_user_turn(make_judge: Any, server: ChatServer) -> None:
    response = "right {question} {reference_answer} {0} {model_response} }{ %s \\1"
    prompt = JudgePrompt("Q {question} {} {x} R {reference_answer}\n[Model Response]\n{model_response}", ("CORRECT",))
    make_judge(prompt=prompt).labels(["{model_response}?"], ["{question}"], [response])
    (request,) = server.requests
    expected = "Q {model_response}? {} {x} R {question}\n[Model Response]\n" + response
    assert request.body["messages"] == [{"role": "user", "content": expected}]


def test_strict_and_lenient(make_judge: Any, server: ChatServer) -> None:
    judge = make_judge()
    strict, lenient = JudgedAnswer(judge), JudgedAnswer(judge, ["CORRECT", "PARTIALLY_CORRECT"])
    assert strict.grade_all(RESPONSES, REFERENCES) == [True, False, False, True]
    assert len(server.requests) == 4
    assert lenient.grade_all(RESPONSES, REFERENCES) == [True, True, False, True]
    assert lenient.grade("nearly", REFERENCES[1]) is True
    strict.update(RESPONSES, REFERENCES)
    lenient.update(RESPONSES, REFERENCES)
    assert (strict.compute(), lenient.compute()) == (0.5, 0.75)
    assert len(server.requests) == 4


def test_medical_prompt_has_two_labels(make_judge: Any) -> None:
    grader = JudgedAnswer(make_judge(prompt="medical"))
    assert grader.grade_all(RESPONSES, REFERENCES) == [
        True,
        None,
        False,
        True,
    ]  # PARTIALLY_CORRECT is none of its labels
    with pytest.raises(DataError, match=r"accepts=\['PARTIALLY_CORRECT'\] must be among .*'CORRECT', 'INCORRECT'"):
        JudgedAnswer(make_judge(prompt="medical"), ["PARTIALLY_CORRECT"])
    with pytest.raises(DataError, match="accepts"):
        JudgedAnswer(make_judge(), [])


def test_judge_is_asked_side_by_side(make_judge: Any, server: ChatServer) -> None:
    together = threading.Barrier(4, timeout=20)

    def answer(prompt: str, before: int) -> Answer:
        together.wait()
        return verdict(prompt)

    server.answer = answer
    assert JudgedAnswer(make_judge()).grade_all(RESPONSES, REFERENCES) == [True, False, False, True]


@pytest.mark.parametrize(
    "reference", ["Ada", None, {"question": "Who?"}, {"question": "Who?", "answer": 3}, ["a", "b"]]
)
def test_reference_of_another_kind_is_refused(reference: Any, make_judge: Any, server: ChatServer) -> None:
    with pytest.raises(DataError, match="a judge needs a reference like"):
        JudgedAnswer(make_judge()).grade("right", reference)
    assert server.requests == []


def test_at_least_one_attempt(make_judge: Any) -> None:
    with pytest.raises(ValueError, match="attempts=0"):
        make_judge(attempts=0)


# No verdict


BABBLE = {
    "empty": says(""),
    "both": says("CORRECT or INCORRECT"),
    "prose": says("The response is CORRECT."),
    "long": says("CORRECT " * 130_000),
    "other": says("PARTIALLY CORRECT"),
}


def test_babble_is_asked_about_again_and_then_ungraded_never_wrong(
    make_judge: Any, server: ChatServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda prompt, before: BABBLE.get(response_in(prompt)) or verdict(prompt)
    judge = make_judge(attempts=3)
    responses = [*BABBLE, "right", "wrong"]
    references = [REFERENCES[0]] * len(responses)
    strict, lenient = JudgedAnswer(judge), JudgedAnswer(judge, ["CORRECT", "PARTIALLY_CORRECT"])
    for grader in (strict, lenient):
        grader.update(responses, references)
        assert (grader.correct, grader.graded, grader.ungraded) == (1, 2, len(BABBLE))
        assert grader.compute() == 0.5
    times = {response_in(prompt): times for prompt, times in server.asked.items()}
    assert times == dict.fromkeys(BABBLE, 3) | {"right": 1, "wrong": 1}
    assert "no verdict of judge-1 on 5 of 7 answers" in caplog.text
    kept = lines(tmp_path / "judge" / "verdicts.jsonl")
    assert {record["reply"] for record in kept} >= {"", "CORRECT or INCORRECT", "PARTIALLY CORRECT"}
    assert max(len(record["reply"]) for record in kept) == 1000


def test_second_attempt_may_succeed(make_judge: Any, server: ChatServer) -> None:
    server.answer = lambda prompt, before: verdict(prompt) if before else says("Let me think.")
    assert make_judge(attempts=2).labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert len(server.requests) == 8
    assert make_judge(attempts=1, folder=None).labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS


@pytest.mark.parametrize("failure", [fails(500), Answer(resets=True), Answer(b"{}"), fails(400)])
def test_answer_that_could_not_be_judged_is_ungraded(failure: Answer, make_judge: Any, server: ChatServer) -> None:
    server.answer = lambda prompt, before: failure if response_in(prompt) == "wrong" else verdict(prompt)
    judge = make_judge()
    grader = JudgedAnswer(judge)
    grader.update(RESPONSES, REFERENCES)
    assert (grader.correct, grader.graded, grader.ungraded) == (2, 3, 1)
    asked = len(server.requests)
    assert asked <= 5  # the endpoint has tried again, and the judge does not ask a silent one once more
    assert JudgedAnswer(judge).grade_all(RESPONSES, REFERENCES) == [True, False, None, True]
    assert len(server.requests) == asked  # nor does a second grader in the same evaluation

    server.answer = verdict
    grader.reset()  # another evaluation
    assert (grader.correct, grader.graded, grader.ungraded) == (0, 0, 0)
    assert grader.grade_all(RESPONSES, REFERENCES) == [True, False, False, True]
    assert len(server.requests) == asked + 1


def test_nothing_graded_is_no_accuracy(make_judge: Any, server: ChatServer) -> None:
    server.answer = lambda prompt, before: says("hm")
    grader = JudgedAnswer(make_judge(attempts=1))
    grader.update(RESPONSES, REFERENCES)
    assert grader.compute().isnan()


# A judge that cannot be used


def test_judge_that_never_worked_ends_the_run_but_responses_are_kept(
    make_judge: Any, server: ChatServer, tmp_path: Path
) -> None:
    server.answer = lambda prompt, before: fails(401)
    with pytest.raises(ChatError, match="the key in OPENAI_API_KEY"):
        make_judge().labels(QUESTIONS, ANSWERS, RESPONSES)
    kept = lines(tmp_path / "judge" / "responses.jsonl")
    assert [record["response"] for record in kept] == RESPONSES
    assert [record["reference"] for record in kept] == REFERENCES


def test_judge_that_stops_working_costs_verdicts_not_the_run(
    make_judge: Any, server: ChatServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    judge = make_judge()
    grader = JudgedAnswer(judge)
    grader.update(RESPONSES[:2], REFERENCES[:2])
    server.answer = lambda prompt, before: fails(401)
    grader.update(RESPONSES[2:], REFERENCES[2:])
    assert (grader.correct, grader.graded, grader.ungraded) == (1, 2, 2)
    assert "judge-1 cannot be used any more" in caplog.text
    assert f"lightning-sdft judge --responses {tmp_path / 'judge'}" in caplog.text
    assert len(lines(tmp_path / "judge" / "responses.jsonl")) == 4
    asked = len(server.requests)
    assert JudgedAnswer(judge).grade_all(RESPONSES, REFERENCES) == [True, False, None, None]
    assert len(server.requests) == asked


# What is on disk


def test_responses_are_on_disk_before_the_judge_is_asked(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    seen = []

    def answer(prompt: str, before: int) -> Answer:
        seen.append([record["response"] for record in lines(tmp_path / "judge" / "responses.jsonl")])
        return verdict(prompt)

    server.answer = answer
    make_judge().labels(QUESTIONS, ANSWERS, RESPONSES)
    assert seen == [RESPONSES] * 4


def test_verdicts_are_on_disk_before_the_rest_arrives(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "judge" / "verdicts.jsonl"

    def answer(prompt: str, before: int) -> Answer:
        if response_in(prompt) == "wrong":  # is answered when the others are on disk
            for _ in range(2000):
                if path.exists() and len(lines(path)) == 3:
                    break
                threading.Event().wait(0.01)
            else:
                return fails(500)
        return verdict(prompt)

    server.answer = answer
    assert make_judge().labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert [record["label"] for record in lines(path)][-1] == "INCORRECT"


def test_second_run_pays_nothing(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    make_judge().labels(QUESTIONS, ANSWERS, RESPONSES)
    files = {path: path.read_bytes() for path in (tmp_path / "judge").iterdir()}
    assert {path.name for path in files} == {"responses.jsonl", "verdicts.jsonl"}
    assert make_judge().labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert make_judge().labels(QUESTIONS[::-1], ANSWERS[::-1], RESPONSES[::-1]) == LABELS[::-1]
    assert len(server.requests) == 4
    assert {path: path.read_bytes() for path in (tmp_path / "judge").iterdir()} == files


def test_verdict_is_of_one_judge_on_one_question_reference_and_response(make_judge: Any, server: ChatServer) -> None:
    make_judge().labels(["Who?"], ["Ada"], ["right"])
    asked = 1
    for judge, question_, answer, response in [
        (make_judge(), "Whom?", "Ada", "right"),
        (make_judge(), "Who?", "Eve", "right"),
        (make_judge(), "Who?", "Ada", "wrong"),
        (make_judge(name="judge-2"), "Who?", "Ada", "right"),
        (make_judge(prompt="medical"), "Who?", "Ada", "right"),
    ]:
        assert judge.labels([question_], [answer], [response]) == ["INCORRECT" if response == "wrong" else "CORRECT"]
        asked += 1
        assert len(server.requests) == asked


def test_equal_responses_to_a_question_are_judged_once(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    labels = make_judge().labels(["Who?"] * 5, ["Ada"] * 5, ["right", "wrong", "right", "right", "wrong"])
    assert labels == ["CORRECT", "INCORRECT", "CORRECT", "CORRECT", "INCORRECT"]
    assert len(server.requests) == 2
    assert len(lines(tmp_path / "judge" / "responses.jsonl")) == 2


def test_babble_on_disk_is_no_verdict(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    server.answer = lambda prompt, before: says("hm")
    assert make_judge(attempts=1).labels(QUESTIONS, ANSWERS, RESPONSES) == [None] * 4
    server.answer = verdict
    judge = make_judge(attempts=1)
    assert judge.labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    path = tmp_path / "judge" / "verdicts.jsonl"
    Journal(path).append({**lines(path)[-1], "label": None})  # another process got babble at the same time
    assert make_judge().labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert len(server.requests) == 8


def test_two_judges_with_one_folder_share_verdicts(make_judge: Any, server: ChatServer) -> None:
    first, second = make_judge(), make_judge()
    for start in (0, 2):
        part = slice(start, start + 2)
        assert first.labels(QUESTIONS[part], ANSWERS[part], RESPONSES[part]) == LABELS[part]
        assert second.labels(QUESTIONS[part], ANSWERS[part], RESPONSES[part]) == LABELS[part]
    assert len(server.requests) == 4


def test_each_process_has_files_of_its_own_and_reads_all(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    for rank, part in ((0, slice(0, 2)), (1, slice(2, 4))):
        distributed.init_process_group("fake", store=distributed.HashStore(), rank=rank, world_size=2)
        try:
            make_judge().labels(QUESTIONS[part], ANSWERS[part], RESPONSES[part])
        finally:
            distributed.destroy_process_group()
    names = sorted(path.name for path in (tmp_path / "judge").iterdir())
    assert names == ["responses.rank0.jsonl", "responses.rank1.jsonl", "verdicts.rank0.jsonl", "verdicts.rank1.jsonl"]
    assert [len(lines(tmp_path / "judge" / name)) for name in names] == [2, 2, 2, 2]
    assert make_judge().labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert len(server.requests) == 4


def test_process_killed_in_the_middle_pays_only_for_the_rest(
    make_judge: Any, server: ChatServer, tmp_path: Path
) -> None:
    responses = [f"{'right' if index % 3 else 'wrong'} {index}" for index in range(20)]
    reached, killed = threading.Event(), threading.Event()

    def answer(prompt: str, before: int) -> Answer:
        if len(server.requests) > 9:
            reached.set()
            killed.wait(60)
        return verdict(prompt)

    server.answer = answer
    script = f"""
from lightning_sdft.chat import Endpoint
from lightning_sdft.grading.judge import Judge
chat = Endpoint("judge-1", {server.url!r}, concurrency=2)
Judge(chat, "knowledge", {str(tmp_path / "judge")!r}).labels(["Q"] * 20, ["A"] * 20, {responses!r})
"""
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert reached.wait(60)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed.set()
    folder = tmp_path / "judge"
    with (folder / "verdicts.jsonl").open("ab") as file:
        file.write(b'{"key": "torn')  # had it been killed a little later
    server.answer = verdict
    before = Journal(folder / "verdicts.jsonl").records()
    assert len(before) >= 8  # of the ten requests two are in flight
    expected = ["INCORRECT" if index % 3 == 0 else "CORRECT" for index in range(20)]
    assert make_judge().labels(["Q"] * 20, ["A"] * 20, responses) == expected
    judged_before = {record["key"] for record in before}
    asked_again = [prompt for prompt, times in server.asked.items() if times > 1]
    assert len(server.requests) == 20 + len(asked_again) <= 22
    assert len(judged_before) + len(asked_again) <= len(server.asked) == 20
    assert len(Journal(folder / "verdicts.jsonl").records()) == 20
    assert len(lines(folder / "responses.jsonl")) == 20


# Copies, configs, and the module that trains


def test_copies_of_graders_share_the_judge(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"prompt": "Who?", "response": "Ada", "reference": REFERENCES[0]}]))
    data = JsonDataModule(
        str(rows),
        reference_column="reference",
        validation_file=str(rows),
        test_file=str(rows),
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
