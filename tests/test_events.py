"""The corpus of invented events: what it says, and all methods of knowledge acquisition on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lightning_sdft import zoo
from lightning_sdft.commands.question_pairs import Distinct, Pair
from lightning_sdft.data.knowledge import KnowledgeDataModule
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.modules.cpt import CPTModule
from lightning_sdft.teacher import EMATeacher
from lightning_sdft.zoo.events.corpus import Event, events, write
from tests.conftest import GROUPED, TURNS_WITH_END

EVENTS = Path(zoo.file("zoo/events"))
CORPUS = list(events())

FILES = {
    "articles": "zoo/events/articles",
    "train": "zoo/events/questions.jsonl",
    "indirect": "zoo/events/indirect.jsonl",
}


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (EVENTS / f"{name}.jsonl").read_text().splitlines()]


def articles() -> dict[str, str]:
    return {file.stem: file.read_text() for file in (EVENTS / "articles").iterdir()}


def words(text: str) -> set[str]:
    return {word.strip(".,:;?!()") for word in text.lower().replace("'s ", " ").split()}


def test_files_are_what_the_script_writes(tmp_path: Path) -> None:
    write(tmp_path)
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    shipped = {name: (EVENTS / name).read_bytes() for name in written}
    assert written == shipped
    assert {path.name for path in (EVENTS / "articles").iterdir()} == {
        name.name for name in written if name.parent.name == "articles"
    }


def test_it_is_as_large_as_promised() -> None:
    assert sum(path.stat().st_size for path in EVENTS.rglob("*") if path.suffix != ".pyc") < 200_000
    texts = articles()
    assert len(texts) == 10
    assert all(150 <= len(text.split()) <= 300 for text in texts.values())
    for name, count in (("questions", 20), ("indirect", 3)):
        about = [row["article"] for row in rows(name)]
        assert {article: about.count(article) for article in texts} == dict.fromkeys(texts, count)


@pytest.mark.parametrize("event", CORPUS, ids=lambda event: event.id)
def test_article_tells_all_facts(event: Event) -> None:
    assert event.article.startswith(f"{event.name}\n\n")
    assert "{" not in event.article + str(event.questions) + str(event.indirect)
    for fact, value in event.facts.items():
        assert isinstance(value, str), f"{fact} is no text"
        assert value.lower() in event.article.lower(), fact


@pytest.mark.parametrize("event", CORPUS, ids=lambda event: event.id)
def test_answers_say_nothing_but_what_the_article_says(event: Event) -> None:
    connecting = {
        "a",
        "with",
        "saved",
        "because",
        "which",
        "on",
        "at",
        "prevented",
        "flooding",
        "that",
        "was",
        "in",
        "by",
    }
    for _, answer in [*event.questions, *event.indirect]:
        assert words(answer) - connecting - words(event.article) == set(), answer


def test_indirect_questions_do_not_name_the_event_and_have_one_answer() -> None:
    names = [event.name for event in CORPUS] + [event.name.rsplit(" ", 1)[0] for event in CORPUS if " fire" in event.id]
    for row in rows("indirect"):
        assert not any(name.lower() in row["question"].lower() for name in names)
    for event in CORPUS:
        assert [other.name for other in CORPUS if event.facts["month"] in other.article] == [event.name]
        others = [other for other in CORPUS if other.name != event.name]
        for question, answer in event.indirect:
            assert not any((question, answer) in other.indirect or question in dict(other.indirect) for other in others)
            assert not any(answer.lower() in other.article.lower() for other in others), answer


def test_no_question_repeats_another_one() -> None:
    distinct = Distinct(similarity=0.9)
    for row in [*rows("questions"), *rows("indirect")]:
        distinct.add(row["article"], [Pair(row["question"], row["answer"])])
    assert len(distinct.kept) == 230
    assert (distinct.same, distinct.similar) == (0, 0)


# Runs


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained Llama with a tokenizer made from the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<pad>", "<end>", "<user>", "<assistant>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*articles().values(), *map(str, rows("questions"))], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    wrapped.chat_template = TURNS_WITH_END
    folder = tmp_path_factory.mktemp("reader")
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {**GROUPED, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 1024}
    LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=None, eos_token_id=1, pad_token_id=0)).save_pretrained(folder)
    return str(folder)


def make_trainer(folder: Path, *callbacks: Callback) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    limits = {"limit_val_batches": 1, "limit_test_batches": 1, "limit_predict_batches": 1, "num_sanity_val_steps": 0}
    settings = {**quiet, **limits, "logger": False, "max_steps": 2, "val_check_interval": 2}
    return Trainer(accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **settings)


def make_data(**arguments: Any) -> KnowledgeDataModule:
    shares = {"validation_share": 0.1, "test_share": 0.1, "batch_size": 4, "evaluation_batch_size": 8}
    return KnowledgeDataModule(**{**FILES, **shares, **arguments})


RUNS = {
    "cpt": (CPTModule, {}),
    "sft": (SFTModule, {}),
    "sdft on answers": (SDFTModule, {"privileged_context": "demonstration"}),
    "sdft on articles": (SDFTModule, {"privileged_context": "article"}),
    "sdft on both": (SDFTModule, {"privileged_context": "both"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_method_trains_and_is_evaluated(name: str, reader: str, tmp_path: Path) -> None:
    method, arguments = RUNS[name]
    budgets: dict[str, Any] = {"max_prompt_tokens": 64, "max_completion_tokens": 40, "learning_rate": 1e-2}
    if method is SDFTModule:
        budgets |= {"max_teacher_prompt_tokens": 512}
    if method is CPTModule:
        budgets |= {"max_completion_tokens": 512}
    module = method(reader, **budgets, **arguments, warmup_steps=0)
    module.configure_model()
    before = [parameter.detach().clone() for parameter in module.policy.parameters()]
    data = make_data(train_on="articles" if method is CPTModule else "questions")
    trainer = make_trainer(tmp_path, *([EMATeacher()] if method is SDFTModule else []))
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 2
    assert any(not torch.equal(old, new) for old, new in zip(before, module.policy.parameters(), strict=True))
    assert trainer.callback_metrics["train/loss"] > 0
    assert 0 <= trainer.callback_metrics["val/accuracy/knowledge_contained"] <= 1
    module.max_completion_tokens = 8
    (_, _) = tested = trainer.test(module, datamodule=data, verbose=False)
    accuracies = {key for part in tested for key in part}
    assert {"test/accuracy/knowledge_contained", "test/accuracy/ood_contained"} <= accuracies


@pytest.mark.parametrize("prompt", ["closed", "oracle"])
def test_closed_book_and_oracle_evaluation(prompt: Any, reader: str, tmp_path: Path) -> None:
    module = CausalLMModule(reader, max_prompt_tokens=512, max_completion_tokens=8)
    data = make_data(prompt=prompt)
    knowledge, ood = make_trainer(tmp_path).predict(module, datamodule=data)
    texts = articles()
    sources = {row["question"]: texts[row["article"]].strip() for row in [*rows("questions"), *rows("indirect")]}
    assert len(knowledge[0]) == len(ood[0]) == 8
    for record in [*knowledge[0], *ood[0]]:
        (turn,) = record["prompt"]
        question = record["reference"]["question"]
        assert question in turn["content"]
        assert (sources[question] in turn["content"]) == (prompt == "oracle")
        assert set(record["correct"].values()) <= {True, False}


def test_cpt_reads_every_letter_of_the_articles(reader: str) -> None:
    module = CPTModule(reader, max_prompt_tokens=64, max_completion_tokens=200)
    data = make_data(train_on="articles", passage_length=600)
    read: dict[str, str] = {}
    for example, sequence in zip(data.splits.train, module.demonstrations(data.splits.train), strict=True):
        assert module.training_problem(example) is None
        *tokens, end = sequence.prompt + sequence.completion
        assert end == module.tokenizer.hugging_face.eos_token_id
        article, _, _ = example.id.rpartition("-")
        read[article] = read.get(article, "") + module.tokenizer.hugging_face.decode(tokens)
    assert read == {name: text.strip() for name, text in articles().items()}
    assert len(data.splits.train) > 20
