from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from lightning_sdft.chat.endpoint import Endpoint
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.knowledge import KnowledgeDataModule
from lightning_sdft.data.templates import TEMPLATES, teacher_messages
from lightning_sdft.errors import DataError
from lightning_sdft.grading.contains import AnswerContained
from lightning_sdft.grading.judge import Judge, JudgedAnswer
from tests.chat.server import Answer, ChatServer, says, serving

TEXTS = {"flood": "The flood\n\nIt came at {noon}.", "storm": "The storm\n\nIt went at night."}


def question_row(number: int, article: Any = "flood") -> dict[str, Any]:
    return {"article": article, "question": f"Who was number {number}?", "answer": f"Person {number}"}


Write = Callable[[str, list[dict[str, Any]]], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, rows: list[dict[str, Any]]) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def articles(tmp_path: Path) -> str:
    folder = tmp_path / "articles"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text)
    return str(folder)


def test_student_sees_the_question_and_the_teacher_what_it_is_told(articles: str, write: Write) -> None:
    (example,) = KnowledgeDataModule(articles, train=write("pairs", [question_row(7)])).splits.train
    assert example.id == "pairs-1"
    assert example.prompt == [{"role": "user", "content": "Who was number 7?"}]
    assert example.demonstration == "Person 7"
    assert example.context == TEXTS["flood"]
    assert example.reference == {"question": "Who was number 7?", "answer": "Person 7"}
    for context, shown in {"article": (True, False), "demonstration": (False, True), "both": (True, True)}.items():
        (turn,) = teacher_messages(example, TEMPLATES[context])  # type: ignore[index]
        assert (TEXTS["flood"] in turn["content"], "Person 7" in turn["content"]) == shown


def test_a_question_may_be_about_several_articles(articles: str, write: Write) -> None:
    (example,) = KnowledgeDataModule(articles, write("pairs", [question_row(1, ["storm", "flood"])])).splits.train
    assert example.context == f"{TEXTS['storm']}\n\n{TEXTS['flood']}"


def test_holds_out_questions_whatever_is_trained_on(articles: str, write: Write) -> None:
    file = write("pairs", [question_row(number) for number in range(40)])
    shares = {"validation_share": 0.1, "test_share": 0.2, "split_seed": 5}
    splits, reading = (
        KnowledgeDataModule(articles, file, train_on=each, **shares).splits for each in ("questions", "articles")
    )
    assert (len(splits.train), len(splits.validation[0].examples), len(splits.test[0].examples)) == (28, 4, 8)
    held_out = {example.id for part in (*splits.validation, *splits.test) for example in part.examples}
    assert not held_out & {example.id for example in splits.train}
    assert [part.examples for part in (*reading.validation, *reading.test)] == [
        part.examples for part in (*splits.validation, *splits.test)
    ]
    assert [example.demonstration for example in reading.train] == list(TEXTS.values())


def test_the_same_question_in_other_spelling_is_warned_about(
    articles: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    train, test = (
        write("train", [question_row(1)]),
        write("test", [{**question_row(1), "question": "WHO was number 1"}]),
    )
    _ = KnowledgeDataModule(articles, train=train, test=test).splits
    assert "1 of 1 test questions, the first being test-1, are also trained on" in caplog.text


def test_oracle_shows_the_article_in_evaluation_only(articles: str, write: Write) -> None:
    file, indirect = write("pairs", [question_row(n) for n in range(10)]), write("far", [question_row(77, "storm")])
    data = KnowledgeDataModule(articles, file, indirect=indirect, test_share=0.2, prompt="oracle")
    assert all(TEXTS["flood"] not in example.prompt[0]["content"] for example in data.splits.train)
    known, far = data.splits.test
    for example in known.examples:
        content = example.prompt[0]["content"]
        assert content == (
            "This is a text that the question is about:\nThe flood\n\nIt came at {noon}.\n\nAnswer the question.\n"
            f"Question: {example.reference['question']}"
        )
    assert TEXTS["storm"] in far.examples[0].prompt[0]["content"]
    own = KnowledgeDataModule(articles, test=file, prompt="oracle", oracle_template="{question} <{article}>")
    assert own.splits.test[0].examples[3].prompt[0]["content"] == f"Who was number 3? <{TEXTS['flood']}>"


def test_indirect_questions_are_a_test_set_of_their_own(articles: str, write: Write) -> None:
    indirect = write("far", [question_row(1), question_row(2)])
    splits = KnowledgeDataModule(articles, write("pairs", [question_row(3)]), indirect=indirect).splits
    (only,) = splits.test
    assert only.name == "ood_contained"
    assert [example.id for example in only.examples] == ["far-1", "far-2"]
    assert not splits.validation


def test_without_judge_the_answer_is_searched_for_and_that_is_said(
    articles: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    file = write("pairs", [question_row(number) for number in range(4)])
    (test,) = KnowledgeDataModule(articles, test=file).splits.test
    ((name, grader),) = test.graders.items()
    assert name == "knowledge_contained"
    assert isinstance(grader, AnswerContained)
    grader.update([f"It was {e.demonstration}." for e in test.examples], [e.reference for e in test.examples])
    assert grader.compute() == 1
    assert "no judge: an answer counts as correct if" in caplog.text
    caplog.clear()
    _ = KnowledgeDataModule(articles, train=file).splits
    assert "no judge" not in caplog.text


def verdict(prompt: str, before: int) -> Answer:
    assert "[Reference Answer]\nPerson" in prompt
    return says(prompt.partition("[Model Response]\n")[2].splitlines()[0])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(verdict) as running:
        yield running


def test_judge_grades_strictly_and_leniently_at_one_price(
    articles: str, write: Write, server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    file = write("pairs", [question_row(number) for number in range(4)])
    judge = Judge(Endpoint("m", server.url), "knowledge")
    far = write("far", [question_row(9)])
    known, indirect = KnowledgeDataModule(articles, test=file, indirect=far, judge=judge).splits.test
    assert list(known.graders) == ["knowledge", "knowledge_lenient"]
    assert list(indirect.graders) == ["ood", "ood_lenient"]
    assert all(isinstance(grader, JudgedAnswer) for grader in (*known.graders.values(), *indirect.graders.values()))
    responses = ["CORRECT", "PARTIALLY_CORRECT", "INCORRECT", "PARTIALLY_CORRECT"]
    for grader in known.graders.values():
        grader.update(responses, [example.reference for example in known.examples])
    assert [float(grader.compute()) for grader in known.graders.values()] == [0.25, 0.75]
    assert len(server.requests) == 4
    assert "no judge" not in caplog.text


BAD_ROWS = [
    ({"article": "fire"}, "there is no article 'fire' in .*articles, which has 2 articles, such as 'flood'"),
    ({"article": ["flood", "fire"]}, "there is no article 'fire'"),
    ({"article": []}, "column 'article' must hold the id of an article, or a list of ids"),
    ({"article": 3}, "column 'article' must hold the id of an article"),
    ({"answer": " "}, "column 'answer' has no words"),
    ({"answer": "..."}, "column 'answer' has no words"),
    ({"answer": None}, "column 'answer' holds null"),
    ({"question": "?"}, "column 'question' has no words"),
    ({"question": "who was number 1"}, "asks the same as example 'pairs-1'"),
]


@pytest.mark.parametrize(("change", "complaint"), BAD_ROWS)
def test_bad_rows_are_named_or_left_out(
    change: dict[str, Any], complaint: str, articles: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    file = write("pairs", [question_row(1), question_row(2) | change, question_row(3)])
    with pytest.raises(DataError, match=f"pairs.jsonl, row 2: {complaint}"):
        _ = KnowledgeDataModule(articles, file).splits
    train = KnowledgeDataModule(articles, file, on_bad_row="skip").splits.train
    assert [example.id for example in train] == ["pairs-1", "pairs-3"]
    assert "left out 1 of 3 rows" in caplog.text


def test_missing_columns_are_named(articles: str, write: Write) -> None:
    for column in ("article", "question", "answer"):
        row = {key: value for key, value in question_row(1).items() if key != column}
        with pytest.raises(DataError, match=f"row 1: no column '{column}'"):
            _ = KnowledgeDataModule(articles, write("pairs", [row])).splits


def test_files_may_share_questions_but_not_repeat_them(articles: str, write: Write) -> None:
    same = [question_row(1), question_row(2)]
    splits = KnowledgeDataModule(articles, write("train", same), test=write("test", same)).splits
    assert len(splits.train) == len(splits.test[0].examples) == 2


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"oracle_template": "{article}"}, r"placeholders \['article'\], but needs {article} and {question}"),
        ({"oracle_template": "{article} {question} {x}"}, r"placeholders \['article', 'question', 'x'\]"),
        ({"judge": Judge(Endpoint("m"), "medical")}, "give its prompt as knowledge"),
    ],
)
def test_refuses_settings_that_cannot_work(settings: dict[str, Any], complaint: str, articles: str) -> None:
    with pytest.raises(DataError, match=complaint):
        KnowledgeDataModule(articles, **settings)


def test_the_command_line_knows_all_arguments(
    articles: str, write: Write, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    parser = ArgumentParser()
    parser.add_subclass_arguments(DemonstrationDataModule, "data")
    arguments = ["--data=lightning_sdft.data.knowledge.KnowledgeDataModule", f"--data.articles={articles}"]
    arguments += [f"--data.train={write('pairs', [question_row(n) for n in range(8)])}", "--data.batch_size=2"]
    arguments += ["--data.judge=lightning_sdft.grading.judge.LocalJudge", "--data.judge.model=zoo/laptop"]
    arguments += ["--data.judge.prompt=knowledge", "--data.test_share=0.25", "--data.train_on=articles"]
    data = parser.instantiate(parser.parse_args(arguments)).data
    assert len(data.train_dataloader()) == 1
    assert list(data.splits.test[0].graders) == ["knowledge", "knowledge_lenient"]
    assert "judge" not in data.hparams  # an object would keep a checkpoint from being loaded
    with pytest.raises(SystemExit):
        parser.parse_args(["--data.help=lightning_sdft.data.knowledge.KnowledgeDataModule"])
    assert "Maximum number of characters per passage" in capsys.readouterr().out
