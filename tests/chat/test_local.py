from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.chat.local import LocalChat
from lightning_sdft.errors import ChatError
from lightning_sdft.policy import Policy
from tests.conftest import STOP_IDS, TURNS_WITH_END, make_model, make_tokenizer


def ask(*prompts: str) -> list[list[Any]]:
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


PROMPTS = ["w1", "w2 w3 w4", "w8 w1 w1 w9 w2", "w7 w6", "w2 w3"]


@pytest.fixture
def folder(family_folder: Callable[[str], Path]) -> str:
    return str(family_folder("llama"))


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine with a GPU, where a chat model is loaded in bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("in_float32")
def test_greedy_replies_are_those_of_transformers(folder: str) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    expected = []
    for conversation in ask(*PROMPTS):
        prompt = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        tokens = model.generate(
            **{name: prompt[name] for name in ("input_ids", "attention_mask")},
            do_sample=False,
            max_new_tokens=9,
            eos_token_id=STOP_IDS,
            pad_token_id=0,
        )
        expected.append(tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
    heard: dict[int, str] = {}
    chat = LocalChat(folder, max_tokens=9, batch_size=2)
    assert chat.reply(ask(*PROMPTS), heard.__setitem__) == expected
    assert [heard[index] for index in range(5)] == expected
    assert len(set(expected)) > 2


def test_batches_are_handed_on_one_by_one(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = LocalChat(folder, max_tokens=4, batch_size=2)
    heard: list[int] = []
    read: list[int] = []
    prefill = Policy.prefill_each

    def counted(policy: Policy, prompts: Any, counts: Any) -> Any:
        read.append(len(heard))
        return prefill(policy, prompts, counts)

    assert chat.policy  # loads it, which reads a few tokens
    monkeypatch.setattr(Policy, "prefill_each", counted)
    chat.reply(ask(*PROMPTS), lambda index, text: heard.append(index))
    assert heard == [0, 1, 2, 3, 4]
    assert read == [0, 2, 4]  # replies that were there when each batch began


def test_samples_of_one_prompt_differ_and_come_again_with_the_seed(folder: str) -> None:
    def samples(seed: int, *prompts: str, **arguments: Any) -> list[str | None]:
        return LocalChat(folder, max_tokens=12, temperature=1.0, seed=seed, **arguments).reply(ask(*prompts))

    replies = samples(0, *["w1 w2"] * 8)
    assert len(set(replies)) > 5
    assert samples(0, *["w1 w2"] * 8, batch_size=3) == replies
    assert samples(1, *["w1 w2"] * 8) != replies
    assert samples(0, "w5", "w1 w2", "w4", "w1 w2")[1::2] == replies[:2]  # whoever else is asked
    assert samples(0, "w1 w3") != samples(0, "w1 w2")[:1]


def test_conversations_do_not_share_their_noise(folder: str) -> None:
    chat = LocalChat(folder, temperature=1.0)
    assert len({chat._seed(each) for each in ask(*PROMPTS, *PROMPTS)}) == 2 * len(PROMPTS)


def test_next_call_draws_anew(folder: str) -> None:
    whole = LocalChat(folder, max_tokens=12, temperature=1.0).reply(ask(*["w1 w2"] * 6))
    chat = LocalChat(folder, max_tokens=12, temperature=1.0)
    assert chat.reply(ask(*["w1 w2"] * 4)) + chat.reply(ask(*["w1 w2"] * 2)) == whole


def test_torchs_own_random_numbers_are_left_alone(folder: str) -> None:
    chat = LocalChat(folder, max_tokens=4, temperature=1.0)
    chat.policy  # noqa: B018  # loading is not what is tested
    before = torch.get_rng_state()
    chat.reply(ask("w1"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("in_float32")
def test_top_p_leaves_the_most_probable_token(folder: str) -> None:
    greedy = LocalChat(folder, max_tokens=8).reply(ask(*PROMPTS))
    assert LocalChat(folder, max_tokens=8, temperature=1.0, top_p=1e-6).reply(ask(*PROMPTS)) == greedy


def test_conversation_without_room_gets_no_reply(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    """The model reads 64 tokens; a turn costs its words and 3 more."""
    chat = LocalChat(folder, max_tokens=20)
    fits, too_long = " ".join(["w1"] * 41), " ".join(["w1"] * 42)
    heard: dict[int, str] = {}
    replies = chat.reply(ask(too_long, fits, "w1"), heard.__setitem__)
    assert [reply is None for reply in replies] == [True, False, False]
    assert heard == {1: replies[1], 2: replies[2]}
    assert "no reply to 1 of 3 conversations" in caplog.text
    assert LocalChat(folder, max_tokens=64).reply(ask("w1")) == [None]


@pytest.mark.usefixtures("in_float32")
def test_conversation_that_the_model_cannot_read_gets_no_reply(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    chat = LocalChat(folder, max_tokens=8)
    replies = chat.reply(ask("w1", "w2 <end>", "w2 w3", "\ud83d"))
    assert replies == [*chat.reply(ask("w1")), None, *chat.reply(ask("w2 w3")), None]
    assert "no reply to 2 of 4 conversations, which it cannot read; the first: its text contains '<end>'" in caplog.text


def test_template_arguments_are_given_to_the_chat_template(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    make_tokenizer("{{ style }} " + TURNS_WITH_END).save_pretrained(tmp_path)
    chat = LocalChat(str(tmp_path), template_arguments={"style": "w9"})
    assert chat.policy.tokenizer.decode(chat.policy.tokenizer.encode(ask("w1")[0])).startswith("w9 <user>")
    with pytest.raises(ValueError, match="template_arguments are for a model given by name"):
        LocalChat(chat.policy, template_arguments={"style": "w9"})


def test_policy_in_memory_is_used_as_it_is(folder: str) -> None:
    policy = Policy.load(folder)
    chat = LocalChat(policy, max_tokens=8)
    assert chat.name == folder
    assert chat.policy is policy
    before = chat.reply(ask(*PROMPTS))
    assert before == LocalChat(folder, max_tokens=8).reply(ask(*PROMPTS))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(-1)
    assert chat.reply(ask(*PROMPTS)) != before
    assert policy.training


def test_model_is_loaded_when_it_is_asked_and_not_copied(folder: str) -> None:
    chat = LocalChat(folder, max_tokens=5)
    assert chat._policy is None
    assert chat.reply([]) == []
    assert chat._policy is None
    replies = chat.reply(ask(*PROMPTS))
    assert len(pickle.dumps(chat)) < 2000
    for other in (copy.deepcopy(chat), pickle.loads(pickle.dumps(chat))):
        assert other._policy is None
        assert other.name == chat.name == folder
        assert other.reply(ask(*PROMPTS)) == replies
    assert chat._policy is not None


def test_precision_of_others_is_left_alone(folder: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        chat = LocalChat(folder, max_tokens=2)
        chat.reply(ask("w1"))
        assert torch.get_default_dtype() == torch.float64
        assert chat.policy.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    finally:
        torch.set_default_dtype(torch.float32)


def test_no_such_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ChatError, match="the chat model '/no/such/folder' cannot be loaded"):
        LocalChat("/no/such/folder").reply(ask("w1"))


def test_from_yaml(folder: str) -> None:
    parser = ArgumentParser()
    parser.add_argument("--chat", type=ChatModel)
    config = parser.parse_string(
        f"chat:\n  class_path: lightning_sdft.chat.LocalChat\n  init_args: {{model: {folder}, max_tokens: 3}}\n"
    )
    chat = parser.instantiate_classes(config).chat
    assert isinstance(chat, LocalChat)
    assert chat.reply(ask("w1")) == LocalChat(folder, max_tokens=3).reply(ask("w1"))
