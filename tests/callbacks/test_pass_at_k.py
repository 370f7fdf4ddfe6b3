from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_sdft.callbacks.pass_at_k import PassAtK
from lightning_sdft.commands.fit import main
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading import ExactMatch
from lightning_sdft.modules import CausalLMModule, SFTModule
from lightning_sdft.records import GREEDY, Example, Sampling
from tests.launch import in_processes
from tests.modules.conftest import question


class FirstWord(ExactMatch):
    """Whether a response begins with a word, whatever follows; of a question marked so it cannot tell."""

    seen: list[str]

    def grade(self, response: str, reference: Any) -> bool | None:
        self.seen.append(response)
        if reference == "?" and sum(map(ord, response)) % 2:
            return None
        return response.split(" ")[0] == reference


@pytest.fixture
def run(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> Callable[..., dict[str, float]]:
    def run(callback: PassAtK, references: list[str], batch_size: int = 3) -> dict[str, float]:
        asked = [question(index) for index in range(len(references))]
        examples = [Example(each.id, each.prompt, reference=ref) for each, ref in zip(asked, references, strict=True)]
        grader = FirstWord()
        grader.seen = []
        data = words_data(test=[EvaluationSet(examples, {"words": grader})], evaluation_batch_size=batch_size)
        trainer = make_trainer(callbacks=[callback], logger=CSVLogger(tmp_path, name=f"{callback.samples}"))
        trainer.test(words_module(SFTModule), datamodule=data, verbose=False)
        run.seen = grader.seen  # type: ignore[attr-defined]
        run.curve = (Path(trainer.log_dir) / "metrics.csv").read_text()  # type: ignore[attr-defined]
        return {name: value.item() for name, value in trainer.callback_metrics.items()}

    return run


def first_word_chance(module: CausalLMModule, example: Example, word: str) -> float:
    """The probability that a response begins with a word, from the model's own logits."""
    prompt = module.tokenizer.encode(example.prompt)
    with torch.no_grad():
        logits = module.policy.model(torch.tensor([prompt])).logits[0, -1]
    return logits.softmax(-1)[module.tokenizer.hugging_face.convert_tokens_to_ids(word)].item()


def test_estimates_the_chance_that_one_of_k_samples_is_right(
    run: Any, words_module: Callable[..., CausalLMModule]
) -> None:
    module = words_module(SFTModule)
    module.configure_model()
    module.policy.eval()
    words = [f"w{number}" for number in range(59) if number not in (5, 15, 25, 35, 45, 55)]  # these end a response
    references, chances = [], []
    for index in range(4):
        by_chance = {word: first_word_chance(module, question(index), word) for word in words}
        references.append(max(by_chance, key=by_chance.__getitem__))
        chances.append(by_chance[references[-1]])
    metrics = run(PassAtK(samples=256, sampling=Sampling(), batch_size=2), references)
    for k in (1, 2, 4):
        expected = sum(1 - (1 - chance) ** k for chance in chances) / 4
        assert metrics[f"test/pass_at_{k}/words"] == pytest.approx(expected, abs=0.08)
    values = [metrics[f"test/pass_at_{2**power}/words"] for power in range(9)]
    assert values == sorted(values)
    assert metrics["test/pass_at_1_low/words"] <= values[0] <= metrics["test/pass_at_1_high/words"]
    assert "test/pass_at_k_ungraded/words" not in metrics
    assert len(run.seen) == 4 * 256 + 4  # one pass serves all k; the others are the greedy answers


def test_samples_do_not_depend_on_batches(run: Any) -> None:
    def samples() -> list[str]:
        return sorted(run.seen)

    references = ["w1"] * 5
    run(PassAtK(samples=4, batch_size=4), references)
    first = samples()
    run(PassAtK(samples=4, batch_size=1), references, batch_size=2)
    assert samples() == first
    run(PassAtK(samples=4, batch_size=4, seed=1), references)
    assert samples() != first


def test_the_curve_over_k_is_logged(run: Any) -> None:
    run(PassAtK(samples=8), ["w1"])
    header, *lines = run.curve.splitlines()
    column, step = header.split(",").index("pass_at_k/words"), header.split(",").index("step")
    assert [line.split(",")[step] for line in lines if line.split(",")[column]] == ["1", "2", "4", "8"]


def test_ungraded_responses_are_no_samples(run: Any) -> None:
    metrics = run(PassAtK(samples=8), ["?", "w1", "?"])
    assert 0 < metrics["test/pass_at_k_ungraded/words"] < 16
    assert metrics["test/pass_at_8/words"] in (0, 1)  # of the one question with 8


def evaluate(arguments: list[str], folder: Path) -> None:
    """The command line, whose output goes to a file of each process."""
    name = f"{os.environ['WORLD_SIZE']}-{os.environ['RANK']}.txt"
    with chdir(folder), open(name, "w") as file, redirect_stdout(file):
        main(arguments)


def test_two_processes_share_the_questions_and_report_the_same(tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "configs" / "experiment" / "laptop_sdft.yaml"
    sizes = {"prior_size": 3, "test_size": 9, "validation_size": 4, "evaluation_batch_size": 2}
    command = ["test", "--config", str(config), "--trainer.logger=false"]
    command += [f"--data.{name}={value}" for name, value in sizes.items()]
    command += ["--trainer.callbacks+=PassAtK", "--trainer.callbacks.samples=4", "--trainer.enable_progress_bar=false"]
    tables = []
    for processes in (["--trainer.devices=1"], ["--trainer.devices=2", "--trainer.strategy=ddp"]):
        count = 1 + len(tables)
        in_processes(count, evaluate, [*command, *processes], tmp_path)
        printed = (tmp_path / f"{count}-0.txt").read_text()
        tables.append([line for line in printed.splitlines() if "│" in line])
    assert "test/pass_at_4/swap-ends" in str(tables[0])
    assert tables[0] == tables[1]


def test_sets_without_grader_are_left_out(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PassAtK, "_respond", None)  # nothing is sampled
    trainer = make_trainer(callbacks=[PassAtK(samples=2)])
    data = words_data(test=[EvaluationSet([question(20)], {}, title="free")])
    trainer.test(words_module(SFTModule), datamodule=data, verbose=False)
    assert set(trainer.callback_metrics) == {"test/loss", "test/loss/free"}


def test_greedy_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sampling\.temperature=0 gives the same answer"):
        PassAtK(sampling=GREEDY)
