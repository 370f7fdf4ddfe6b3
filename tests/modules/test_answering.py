from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.records import Example
from tests.conftest import STOP_IDS, VOCABULARY
from tests.modules.conftest import question
from tests.modules.dense import token_ids


def own_answer(module: CausalLMModule, example: Example) -> str:
    """The model's greedy response according to transformers."""
    prompt = torch.tensor([token_ids(f"<user> {example.prompt[-1]['content']} <end> <assistant>")])
    output = module.policy.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=module.max_completion_tokens,
        eos_token_id=STOP_IDS,
    )
    words = [VOCABULARY[token] for token in output[0, prompt.shape[1] :]]
    return " ".join(word for word in words if not word.startswith("<"))


def evaluation_sets(module: CausalLMModule, rights: dict[str, int]) -> list[EvaluationSet]:
    """Sets of four questions, of which as many as asked for have the model's own answer as the reference."""
    module.configure_model()
    module.policy.eval()
    sets = []
    for number, (name, right) in enumerate(rights.items()):
        examples = []
        for index in range(4):
            asked = question(4 * number + index)
            reference = own_answer(module, asked) if index < right else "something else"
            examples.append(Example(asked.id, asked.prompt, reference=reference))
        sets.append(EvaluationSet(examples, {name: ExactMatch()}, prior=name.startswith("old")))
    module.policy.train()
    return sets


def accuracies(trainer: Any) -> dict[str, float]:
    """What was logged of accuracies, the ends of intervals aside, which every accuracy has."""
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if "/length/" not in name}
    ends = {name for name in metrics if re.search("_(low|high)(/|$)", name)}
    assert 3 * (len(metrics) - len(ends)) == len(metrics)
    return {name: value for name, value in metrics.items() if name not in ends}


RIGHTS = {"new": 3, "newer": 1, "old": 4, "older": 2, "oldest": 0}


def test_validation_logs_accuracy_of_each_set_and_the_means_of_new_and_prior_ones(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    data = words_data(validation=evaluation_sets(module, RIGHTS), evaluation_batch_size=3)
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.validate(module, datamodule=data, verbose=False)
    expected = {
        "val/accuracy/new": 0.75,
        "val/accuracy/newer": 0.25,
        "val/accuracy": 0.5,
        "prior/old": 1.0,
        "prior/older": 0.5,
        "prior/oldest": 0.0,
        "prior/average": 0.5,
    }
    assert accuracies(trainer) == pytest.approx(expected)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.zero_()
    trainer.validate(module, datamodule=data, verbose=False)  # graders start anew
    assert accuracies(trainer) == dict.fromkeys(expected, 0.0)


def test_test_logs_accuracies_of_the_test_sets(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SDFTModule)
    trainer = make_trainer()
    trainer.test(module, datamodule=words_data(test=evaluation_sets(module, {"new": 3, "old": 2})), verbose=False)
    expected = {"test/accuracy/new": 0.75, "test/accuracy": 0.75, "test/prior/old": 0.5, "test/prior/average": 0.5}
    assert accuracies(trainer) == pytest.approx(expected)


def test_the_same_module_and_data_are_validated_and_then_trained(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    data = words_data(validation=evaluation_sets(module, RIGHTS))
    trainer = make_trainer(limit_val_batches=1.0, max_epochs=1, max_steps=-1)
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step > 0
    assert {"val/accuracy/new", "prior/average"} <= set(trainer.callback_metrics)


def test_mean_tokens_of_responses_to_new_skills_are_logged(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    sets = evaluation_sets(module, {"new": 3, "newer": 1, "old": 2})
    data, trainer = words_data(validation=sets, evaluation_batch_size=3), make_trainer(limit_val_batches=1.0)
    for _ in range(2):  # counted anew
        trainer.validate(module, datamodule=data, verbose=False)
        lengths = {name: value for name, value in trainer.callback_metrics.items() if "/length/" in name}
        assert lengths.keys() == {"val/length/new", "val/length/newer"}
        for each in sets[:2]:
            prompts = [
                torch.tensor([token_ids(f"<user> {e.prompt[-1]['content']} <end> <assistant>")]) for e in each.examples
            ]
            options = {"do_sample": False, "max_new_tokens": module.max_completion_tokens, "eos_token_id": STOP_IDS}
            expected = [
                module.policy.model.generate(prompt, **options).shape[1] - prompt.shape[1] for prompt in prompts
            ]
            assert lengths[f"val/length/{each.name}"] == pytest.approx(sum(expected) / len(expected))


def test_the_first_grader_of_a_set_leads_and_further_ones_are_logged_beside_it(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    class Lenient(ExactMatch):
        def grade(self, response: str, reference: Any) -> bool:
            return True

    module = words_module(SFTModule)
    (strict,) = evaluation_sets(module, {"strict": 1})
    both = EvaluationSet(strict.examples, {"strict": ExactMatch(), "lenient": Lenient()})
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.validate(module, datamodule=words_data(validation=[both]), verbose=False)
    expected = {"val/accuracy/strict": 0.25, "val/accuracy/lenient": 1.0, "val/accuracy": 0.25}
    assert accuracies(trainer) == pytest.approx(expected)


def test_predict_returns_a_record_per_example(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    (graded,) = evaluation_sets(module, {"new": 2})
    batches = make_trainer().predict(module, datamodule=words_data(test=[graded], evaluation_batch_size=3))
    records = [record for batch in batches for record in batch]
    assert [len(batch) for batch in batches] == [3, 1]
    for index, (record, example) in enumerate(zip(records, graded.examples, strict=True)):
        assert record["id"] == example.id
        assert record["prompt"] == example.prompt
        assert record["reference"] == example.reference
        assert record["response"] == own_answer(module, example)
        assert record["correct"] == {"new": index < 2}
        assert isinstance(record["finished"], bool)


def test_evaluation_does_not_change_the_mode_of_the_model(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    data = words_data(validation=evaluation_sets(module, {"new": 1}))
    make_trainer(limit_val_batches=1.0, max_steps=1, val_check_interval=2).fit(module, datamodule=data)
    assert all(part.training for part in module.policy.modules())
