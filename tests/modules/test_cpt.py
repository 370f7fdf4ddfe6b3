from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from lightning_sdft.errors import DataError
from lightning_sdft.modules.cpt import CPTModule
from lightning_sdft.records import Example
from tests.conftest import END, VOCABULARY, make_model, make_tokenizer
from tests.modules.conftest import Watch
from tests.modules.dense import check, log_probabilities, mean, step, token_ids

TEXTS = ["w1 w2 w3 w4", "w6 w7", "w8", "w9 w1 w2 w3 w4 w6 w7"]
EXAMPLES = [Example(text, [{"role": "user", "content": "w44 w47"}], text) for text in TEXTS]
START = VOCABULARY.index("<user>")

Make = Callable[..., CPTModule]


@pytest.fixture
def starting_folder(tmp_path: Path) -> str:
    """A model whose tokenizer begins plain text with a token of its own, and ends it, too."""
    make_model("llama").save_pretrained(tmp_path)
    tokenizer = make_tokenizer(eos_token="<end>", pad_token="<pad>", bos_token="<user>")
    special_tokens = [("<user>", START), ("<end>", END)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<user> $A <end>", special_tokens=special_tokens)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def target_log_probabilities(module: CPTModule, begin: str = "") -> list[Tensor]:
    """Of each token of a text behind the first, and of the token that ends it."""
    parts = []
    for text in TEXTS:
        first, *others = token_ids(f"{begin} {text} <end>")
        scores = log_probabilities(module.policy.model, [first], others)
        parts.append(scores[range(len(others)), torch.tensor(others)])
    return parts


def expected_loss(module: CPTModule, reduction: str, begin: str = "") -> Tensor:
    parts = target_log_probabilities(module, begin)
    return -torch.cat(parts).mean() if reduction == "token" else -mean(part.mean() for part in parts)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("packing", [False, True])
def test_loss_and_gradient_are_those_of_next_token_prediction(
    reduction: Any, packing: bool, words_module: Make
) -> None:
    module = words_module(CPTModule, reduction=reduction, packing=packing)
    module.configure_model()
    expected = expected_loss(module, reduction)
    assert expected > 2
    check(module.policy, step(module, EXAMPLES)[0], expected, 1e-6)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("packing", [False, True])
def test_micro_batches_add_up_to_their_group(packing: bool, words_module: Make) -> None:
    module = words_module(CPTModule, packing=packing)
    module.configure_model()
    loss, _ = step(module, EXAMPLES, 2)
    check(module.policy, loss, expected_loss(module, "token"), 1e-6)


@pytest.mark.usefixtures("double")
def test_with_a_token_that_begins_texts_the_first_word_is_learned_too(starting_folder: str) -> None:
    module = CPTModule(starting_folder, max_prompt_tokens=16, max_completion_tokens=8)
    module.configure_model()
    check(module.policy, step(module, EXAMPLES)[0], expected_loss(module, "token", "<user>"), 1e-6)


def test_sequences_are_plain_text_with_one_end(words_module: Make, starting_folder: str) -> None:
    begun = CPTModule(starting_folder, max_prompt_tokens=16, max_completion_tokens=8)
    for module, begin in ((words_module(CPTModule), ""), (begun, "<user>")):
        sequences = module.demonstrations(EXAMPLES)
        assert [each.prompt + each.completion for each in sequences] == [
            token_ids(f"{begin} {text} <end>") for text in TEXTS
        ]
        assert all(len(each.prompt) == 1 for each in sequences)


def test_packing_does_not_change_the_run(words_module: Make, words_data: Any, make_trainer: Any) -> None:
    losses = []
    for packing in (False, True):
        watch = Watch()
        trainer = make_trainer(callbacks=[watch], max_steps=4)
        trainer.fit(words_module(CPTModule, packing=packing), datamodule=words_data(EXAMPLES))
        losses.append(watch.losses)
    assert len(losses[0]) == 4
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_long_text_is_refused_and_a_long_prompt_is_not_looked_at(
    words_module: Make, words_data: Any, make_trainer: Any
) -> None:
    fits, too_long = (
        Example(str(words), [{"role": "user", "content": "w1 " * 99}], " ".join(["w2"] * words)) for words in (8, 9)
    )
    with pytest.raises(DataError, match=r"the first is '9': its text has 9 tokens to predict, max_completion_tokens=8"):
        make_trainer().fit(words_module(CPTModule), datamodule=words_data([fits, too_long]))
    trainer = make_trainer(max_steps=1, accumulate_grad_batches=1)
    data = words_data([fits, too_long], batch_size=1, micro_batch_size=1)
    with pytest.warns(UserWarning, match="dropped 1 of 2 training examples"):
        trainer.fit(words_module(CPTModule, over_budget="drop"), datamodule=data)
    assert trainer.global_step == 1


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_example_without_text_is_named_before_training(
    text: str | None, words_module: Make, words_data: Any, make_trainer: Any
) -> None:
    bare = Example("bare", [{"role": "user", "content": "w1"}], text)
    with pytest.raises(DataError, match="example 'bare' has no text, which CPTModule learns from"):
        make_trainer().fit(words_module(CPTModule), datamodule=words_data([*EXAMPLES, bare]))
