"""The command that makes questions, with a real HTTP server on loopback and with a real model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import auto_cli

from lightning_sdft.chat.endpoint import Endpoint
from lightning_sdft.chat.local import LocalChat
from lightning_sdft.commands.questions import questions
from lightning_sdft.data.knowledge import KnowledgeDataModule
from lightning_sdft.errors import ChatError, DataError
from lightning_sdft.storage.lock import claim_file
from tests.chat.server import Answer, ChatServer, fails, says, serving
from tests.storage.test_lock import another_process

PUBLISHED = [
    "You are a helpful assistant that helps me write questions for an",
    "exam. You will be given a wiki article and you will need to write",
    "100 question on the content of the wiki article. The question should",
    "require recalling multiple pieces of information from the wiki",
    "article. Do not repeat the same question",
    "The questions should be in the following format:",
    "Question: <question>",
    "Answer: <answer>",
]

PARTS = ["bridge", "tower", "harbour", "museum", "station", "library", "school", "market"]


def about(article: str, turn: int) -> str:
    """Eight questions on parts of a town; the first of each round are those of the round before."""
    name = article.split()[0]
    parts = PARTS[turn * 4 :] + [f"{part} {turn}" for part in PARTS[: turn * 4]]
    return "\n".join(f"Question: Who built {part} of {name}?\nAnswer: The {part} guild of {name}." for part in parts)


def reply(prompt: str, before: int) -> Answer:
    return says(about(prompt, before))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(reply) as running:
        yield running


@pytest.fixture
def articles(tmp_path: Path) -> str:
    folder = tmp_path / "articles"
    folder.mkdir()
    for name in ("Ara", "Bel", "Cor"):
        (folder / f"{name.lower()}.txt").write_text(f"{name} is a town with {{braces}}.")
    return str(folder)


def endpoint(server: ChatServer, **settings: Any) -> Endpoint:
    return Endpoint("m", server.url, **{"retries": 1, "timeout": 10.0, **settings})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_how_far_it_is_is_said(
    server: ChatServer, articles: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions(articles, str(tmp_path / "pairs.jsonl"), endpoint(server), rounds=2)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("questions, round 1 of 2: 1 of 3 replies (33%), ends at ")
    assert "questions, round 2 of 2: 3 of 3 replies (100%)" in said


def test_asks_as_published_and_writes_what_knowledge_reads(
    server: ChatServer, articles: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "pairs.jsonl"
    questions(articles, str(output), endpoint(server), held_out=0.3)
    for request in server.requests:
        system, user = request.body["messages"]
        assert system == {"role": "system", "content": "\n".join(PUBLISHED)}
        assert user["role"] == "user"
    assert sorted(request.prompt for request in server.requests) == [
        f"{name} is a town with {{braces}}." for name in ("Ara", "Bel", "Cor")
    ]
    train, test = read(output), read(output.with_suffix(".test.jsonl"))
    assert len(train) + len(test) == 24
    assert 2 <= len(test) <= 13
    row = next(row for row in [*train, *test] if row["question"] == "Who built bridge of Bel?")
    assert row == {"article": "bel", "question": "Who built bridge of Bel?", "answer": "The bridge guild of Bel."}
    splits = KnowledgeDataModule(articles, str(output), test=str(output.with_suffix(".test.jsonl"))).splits
    assert (len(splits.train), len(splits.test[0].examples)) == (len(train), len(test))
    printed = capsys.readouterr().out
    assert "24 questions about 3 of 3 articles" in printed
    assert f"to train on: {len(train)}" in printed
    assert "left out: 0 the same as another one, 0 similar to one, 0 not read" in printed


def test_output_that_another_process_writes_is_left_to_it(server: ChatServer, articles: str, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    with another_process(lambda: claim_file(output)), pytest.raises(DataError, match=r"pairs\.jsonl' is being written"):
        questions(articles, str(output), endpoint(server))
    assert not server.requests
    questions(articles, str(output), endpoint(server))
    assert not list(tmp_path.glob(".*.lock"))


def test_other_numbers_of_questions_change_nothing_else(server: ChatServer, articles: str, tmp_path: Path) -> None:
    questions(articles, str(tmp_path / "pairs.jsonl"), endpoint(server), per_article=8)
    published = "\n".join(PUBLISHED)
    assert {r.body["messages"][0]["content"] for r in server.requests} == {published.replace("100", "8")}


def test_further_rounds_add_what_is_new_and_pay_for_nothing_twice(
    server: ChatServer, articles: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pairs.jsonl"
    questions(articles, str(output), endpoint(server), held_out=0.3)
    first, held_out = read(output), read(output.with_suffix(".test.jsonl"))
    questions(articles, str(output), endpoint(server), held_out=0.3)
    assert len(server.requests) == 3
    assert (read(output), read(output.with_suffix(".test.jsonl"))) == (first, held_out)
    questions(articles, str(output), endpoint(server), held_out=0.3, rounds=2)
    assert len(server.requests) == 6
    train, test = read(output), read(output.with_suffix(".test.jsonl"))
    assert len(train) + len(test) == 24 + 12
    assert all(row in train for row in first)
    assert all(row in test for row in held_out)
    assert "left out: 12 the same as another one" in capsys.readouterr().out


def test_the_share_that_is_held_out_is_about_the_one_asked_for(tmp_path: Path, articles: str) -> None:
    def many(prompt: str, before: int) -> Answer:
        lines = (f"Question: {prompt[:3]}{n}?\nAnswer: {n}." for n in range(200))
        return says("\n".join(lines))

    with serving(many) as server:
        sizes = {}
        for seed in (0, 1):
            output = tmp_path / f"{seed}.jsonl"
            questions(articles, str(output), endpoint(server), held_out=0.2, split_seed=seed)
            sizes[seed] = {row["question"] for row in read(output.with_suffix(".test.jsonl"))}
            assert 80 < len(sizes[seed]) < 160
        assert sizes[0] != sizes[1]
        questions(articles, str(tmp_path / "all.jsonl"), endpoint(server), held_out=0)
        assert len(read(tmp_path / "all.jsonl")) == 600
        assert not (tmp_path / "all.test.jsonl").exists()


def test_nothing_that_was_paid_for_is_lost_to_a_server_that_fails(
    articles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    works = False

    def answer(prompt: str, before: int) -> Answer:
        return fails(400) if prompt.startswith("Bel") and not works else reply(prompt, 0)

    output = tmp_path / "pairs.jsonl"
    with serving(answer) as server:
        questions(articles, str(output), endpoint(server), held_out=0)
        assert {row["article"] for row in read(output)} == {"ara", "cor"}
        assert "replies that did not come: 1; run the command again" in capsys.readouterr().out
        before, works = len(server.requests), True
        questions(articles, str(output), endpoint(server), held_out=0)
        assert [request.prompt[:3] for request in server.requests[before:]] == ["Bel"]
    assert [row["article"] for row in read(output)] == ["ara"] * 8 + ["bel"] * 8 + ["cor"] * 8


def test_a_killed_command_pays_only_for_the_rest(articles: str, tmp_path: Path) -> None:
    def slow(prompt: str, before: int) -> Answer:
        answer = reply(prompt, 0)
        answer.stall = 60.0 if prompt.startswith("Cor") and before == 0 else 0.0
        return answer

    output = tmp_path / "pairs.jsonl"
    journal = output.with_suffix(".journal.jsonl")
    with serving(slow) as server:
        # a fork, for to import everything anew would take longer than all other tests
        process = get_context("fork").Process(target=questions, args=(articles, str(output), endpoint(server)))
        process.start()
        try:
            for _ in range(600):
                if len(read(journal)) == 2 or not process.is_alive():
                    break
                time.sleep(0.1)
        finally:
            process.kill()
            process.join()
        assert len(read(journal)) == 2
        assert not output.exists()
        with journal.open("a") as file:
            file.write('{"key": "half of a rec')  # as if it had been killed while it wrote
        before = len(server.requests)
        questions(articles, str(output), endpoint(server), held_out=0)
        assert [request.prompt[:3] for request in server.requests[before:]] == ["Cor"]
    assert len(read(output)) == 24


def test_held_out_questions_of_an_earlier_run_do_not_stay(server: ChatServer, articles: str, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    questions(articles, str(output), endpoint(server), held_out=0.5)
    assert output.with_suffix(".test.jsonl").exists()
    questions(articles, str(output), endpoint(server), held_out=0)
    assert len(read(output)) == 24
    assert not output.with_suffix(".test.jsonl").exists()


def test_counts_what_cannot_be_used(articles: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replies = {
        "Ara": "I cannot help with that.",
        "Bel": "Question: Who built the old bridge of Bel in the year of the great flood?\nAnswer: Ann.\n"
        "Question: Who built the old bridge of Bel in the very year of the great flood?\nAnswer: Ann.\n"
        "Question: Who else?\nQuestion: Where does the riv",
        "Cor": "Question: WHO built the old bridge of Bel in the year of the great flood\nAnswer: Bo.\n",
    }
    output = tmp_path / "pairs.jsonl"
    with serving(lambda prompt, before: says(replies[prompt[:3]])) as server:
        questions(articles, str(output), endpoint(server), held_out=0)
    assert [row["answer"] for row in read(output)] == ["Ann."]
    printed = capsys.readouterr().out
    assert "1 question about 1 of 3 articles" in printed
    assert "left out: 1 the same as another one, 1 similar to one, 2 not read" in printed
    assert "replies without any question: 1" in printed
    assert len(read(output.with_suffix(".journal.jsonl"))) == 3


def test_without_any_question_there_is_an_error_and_no_file(articles: str, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    with (
        serving(lambda prompt, before: says("No.")) as server,
        pytest.raises(DataError, match="there are no questions to train on; see above"),
    ):
        questions(articles, str(output), endpoint(server))
    assert not output.exists()


def test_a_changed_article_is_asked_about_again(server: ChatServer, articles: str, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    questions(articles, str(output), endpoint(server), held_out=0)
    (Path(articles) / "bel.txt").write_text("Belmont is a town.")
    questions(articles, str(output), endpoint(server), held_out=0)
    assert [request.prompt for request in server.requests[3:]] == ["Belmont is a town."]
    assert {row["question"].split()[-1] for row in read(output)} == {"Ara?", "Belmont?", "Cor?"}


def test_rounds_of_a_local_model_differ_also_in_a_new_process(articles: str, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    for rounds in (1, 2):
        chat = LocalChat("zoo/laptop", max_tokens=8, temperature=1.0)
        with pytest.raises(DataError, match="there are no questions"):  # the laptop model has no such words
            questions(articles, str(output), chat, rounds=rounds)
    drawn: dict[str, list[str]] = {}
    for record in read(output.with_suffix(".journal.jsonl")):
        drawn.setdefault(record["article"], []).append(record["reply"])
    assert {len(each) for each in drawn.values()} == {2}
    assert any(first != second for first, second in drawn.values())


@pytest.mark.parametrize("chat", [LocalChat("zoo/laptop"), Endpoint("m", "http://127.0.0.1:1", temperature=0.0)])
def test_refuses_to_pay_for_equal_replies(chat: Any, articles: str, tmp_path: Path) -> None:
    with pytest.raises(ChatError, match=r"the 3 replies about an article are all the same; set chat\.temperature"):
        questions(articles, str(tmp_path / "pairs.jsonl"), chat, rounds=3)


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.test.jsonl"])
def test_never_overwrites_files_of_others(name: str, server: ChatServer, articles: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(DataError, match=f"{name} exists, and not from this command"):
        questions(articles, str(tmp_path / "pairs.jsonl"), endpoint(server))
    assert (tmp_path / name).read_text() == "precious"
    assert not server.requests


def test_refuses_settings_that_cannot_work(server: ChatServer, articles: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pairs.json must end in .jsonl"):
        questions(articles, str(tmp_path / "pairs.json"), endpoint(server))
    assert not server.requests


def test_the_command_line_builds_the_chat(
    server: ChatServer, articles: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--articles", articles, "--output", str(tmp_path / "pairs.jsonl"), "--chat", "Endpoint"]
    arguments += ["--chat.model", "gpt-5", "--chat.base_url", server.url, "--rounds", "2", "--held_out", "0"]
    auto_cli(questions, args=arguments, as_positional=False)
    assert len(read(tmp_path / "pairs.jsonl")) == 36
    with pytest.raises(SystemExit):
        auto_cli(questions, args=["--help"], as_positional=False)
    assert "Questions that each request asks for" in capsys.readouterr().out
