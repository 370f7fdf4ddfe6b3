"""The commands of README and pages run: a tiny model, few rows and one step in place of what a reader has."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_sdft.cli import entry_point
from tests.config_runs import rows
from tests.conftest import make_byte_tokenizer
from tests.test_docs import PAGES, commands

__all__ = ["rows"]

ORDER = ["start", "runs", "small_models"]
"""Pages whose runs others go on with."""

ELSEWHERE = {
    "compare": "trains for hours; tests/test_experiment_configs.py runs a step of each method",
    "continual": "trains for hours; tests/test_experiment_configs.py runs a step of each method",
    "sweep": "trains for hours; tests/test_experiment_configs.py runs a step of it",
    "prior": "asks lm-eval's tasks, from the hub; tests/commands/test_prior.py has tasks of its own",
    "demonstrate": "pays a model; tests/commands/test_demonstrate.py has a server",
    "questions": "pays a model; tests/commands/test_questions.py has a server",
    "judge": "pays a model; tests/commands/test_judge.py has a server",
    "runs/sweep/best.yaml": "is what a sweep writes",
    "knowledge_sft": "asks a judge; tests/test_configs.py runs it with a server",
    "remake": "reads the archive of a comparison; tests/experiments/test_compare.py makes and reads one",
    "method/sdpo": "is for rows with references; tests/test_configs.py runs a step of it",
    "configs/experiment/one_gpu_qlora.yaml": "has rows of tool use; tests/test_configs.py runs a step of it",
    "configs/experiment/vision_sdft.yaml": "reads images; tests/vision runs it on a tiny model",
    "trainer/fsdp2": "needs eight GPUs; tests/distributed runs the strategy on CPUs",
    "rollout/vllm": "needs vLLM; tests/test_configs.py runs it with a stand-in",
    "...": "is no whole command",
}
"""Commands, and words of them, that do not run here, and why. tests/test_docs.py parses them."""

OWN = {"own_data": "tests/test_own_data.py runs them on the layouts that the page describes"}
"""Pages whose commands another test runs."""

RUNS = ("fit", "validate", "test", "predict", "preflight", "inspect")

QUICK = ["accelerator=cpu", "devices=1", "precision=32-true", "enable_progress_bar=false", "num_sanity_val_steps=0"]
QUICK += [f"limit_{stage}_batches=1" for stage in ("val", "test", "predict")]

BUDGETS = {"max_prompt_tokens": 2048, "max_teacher_prompt_tokens": 8192, "max_completion_tokens": 8}
"""Of a model that reads bytes."""

SIZES = ("validation", "test", "prior")
"""Evaluation sets of the laptop domain."""

INSTEAD = {"best-step000064.ckpt": "last.ckpt", "best-step000080.ckpt": "last.ckpt", "FILE": "run.yaml"}
"""Words of the pages that are other ones here."""


def row(number: int) -> dict[str, Any]:
    team = ("billing", "parcels")[number % 2]
    return {
        "prompt": f"Who gets message {number}?",
        "response": f"It is for {team}.",
        "reference": team,
        "answer": team,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a reader has: rows and a model."""
    folder, tokenizer = tmp_path_factory.mktemp("reader"), make_byte_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=32768, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    content = "".join(json.dumps(row(number)) + "\n" for number in range(48))
    for name in ("rows", "train", "test", "general", "my"):
        (folder / f"{name}.jsonl").write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def why_not(words: list[str]) -> str | None:
    """Why a command does not run here."""
    return next((ELSEWHERE[word] for word in (words[0], *words[1:]) if word in ELSEWHERE), None)


def shown() -> dict[str, list[list[str]]]:
    """The commands of each page that run here, each once, in an order in which they can."""
    seen: set[str] = set()
    found: dict[str, list[list[str]]] = {}
    for page in sorted(PAGES, key=lambda page: ORDER.index(page.stem) if page.stem in ORDER else len(ORDER)):
        for words in commands(page.read_text()):
            line = shlex.join(words)
            if page.stem not in OWN and why_not(words) is None and line not in seen:
                seen.add(line)
                found.setdefault(page.stem, []).append(words)
    return found


def small(words: list[str], rows: dict[str, Path]) -> list[str]:
    """The same command with the tiny model, rows that are there, and as few steps as show that it runs."""
    command, *_ = words
    text = " ".join(words)
    words = [word.replace(name, other) for word in words for name, other in [_instead(word)]]
    if command in ("init", "memory"):
        given = {"--data": "rows.jsonl", "--model": "model"} if command == "init" else {}
        words = [*words, *(part for name, value in given.items() if name not in words for part in (name, value))]
        return [*words, "--overwrite=true"] if command == "init" else words
    if command == "export":
        return [*words, "--overwrite=true"]
    if command not in RUNS:
        return words
    options = [f"--trainer.{each}" for each in QUICK]
    if command == "fit":
        options.append(f"--trainer.max_steps={2 if '--ckpt_path' in words else 1}")
    if command == "preflight":
        options.append("--questions=2")
    if "laptop" in text:
        return [*words, *options, *(f"--data.init_args.{name}_size=4" for name in SIZES)]
    if "run.yaml" not in text:
        options += [f"--model.init_args.{name}={value}" for name, value in BUDGETS.items()]
        options.append("--model.init_args.model=model")
    if "tool_use" in text:
        options += [f"--data.init_args.{split}={rows['tool_use']}" for split in ("train", "test")]
        options += ["--data.init_args.batch_size=2", "--data.init_args.micro_batch_size=2"]
    return [*words, *options]


def _instead(word: str) -> tuple[str, str]:
    if word.startswith("HuggingFaceTB/"):
        return word, "model"
    return next(((name, other) for name, other in INSTEAD.items() if name in word), ("\0", ""))


@pytest.mark.parametrize("page", shown())
def test_commands_run(
    page: str,
    folder: Path,
    rows: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for words in shown()[page]:
        monkeypatch.setattr("sys.argv", ["lightning-sdft", *small(words, rows)])
        entry_point()
        capfd.readouterr()


def test_what_does_not_run_is_shown_somewhere() -> None:
    words = {word for page in PAGES for line in commands(page.read_text()) for word in line}
    assert sorted(set(ELSEWHERE) - words) == []
    assert set(OWN) <= {page.stem for page in PAGES}


def test_what_runs_says_where_its_words_are_others(rows: dict[str, Path]) -> None:
    words = ["test", "--config", "runs/laptop_sdft/version_0/config.yaml", "--ckpt_path", "a/best-step000064.ckpt"]
    assert small(words, rows)[:5] == [*words[:4], "a/last.ckpt"]
    assert small(["init", "--keep", "general.jsonl"], rows)[1:] == [
        *["--keep", "general.jsonl", "--data", "rows.jsonl", "--model", "model", "--overwrite=true"]
    ]
