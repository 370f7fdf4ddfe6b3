from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.errors import ChatError, DataError
from lightning_sdft.grading.judge import JudgedAnswer
from lightning_sdft.grading.judge_prompts import JudgePrompt
from tests.chat.server import Answer, ChatServer, fails, says
from tests.grading.judging import (
    ANSWERS,
    LABELS,
    QUESTIONS,
    REFERENCES,
    RESPONSES,
    lines,
    make_judge,
    response_in,
    server,
    verdict,
)

__all__ = ["make_judge", "server"]


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
    "reference", ["Ada", None, {"question": "Who?"}, {"question": "Who?", "answer": {}}, ["a", "b"]]
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
