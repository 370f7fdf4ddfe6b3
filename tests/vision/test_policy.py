"""What a policy reads of prompts with images equals what transformers' own model reads, and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.records import GREEDY, Prompt, Sampling, TokenSequence
from lightning_sdft.rollout import generate
from tests.vision.tiny import asked


class Plain:
    """Transformers alone: the model, the processor's steps written out, and nothing of this package."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = AutoImageProcessor.from_pretrained(folder, backend="pil")

    def inputs(self, messages: Any, completion: list[int] | None = None) -> dict[str, Tensor]:
        text = str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        content = messages[-1]["content"]
        sources = [] if isinstance(content, str) else [part["image"] for part in content if part["type"] == "image"]
        given: dict[str, Tensor] = {}
        if sources:
            given = dict(self.images([Image.open(each).convert("RGB") for each in sources], return_tensors="pt"))
            for grid in given["image_grid_thw"]:
                text = text.replace("<|image_pad|>", "<|kept|>" * (int(grid.prod()) // 4), 1)
            text = text.replace("<|kept|>", "<|image_pad|>")
        ids = torch.tensor([self.tokenizer(text)["input_ids"] + (completion or [])])
        kinds = (ids == self.model.config.image_token_id).int()
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds, **given}

    @torch.no_grad()
    def logits(self, messages: Any, completion: list[int]) -> Tensor:
        """The logits that predict each token of a completion, `(N, V)`."""
        self.model.model.rope_deltas = None
        logits: Tensor = self.model(**self.inputs(messages, completion)).logits[0, -len(completion) - 1 : -1]
        return logits

    @torch.no_grad()
    def greedy(self, messages: Any, tokens: int) -> list[int]:
        inputs = self.inputs(messages)
        never = [self.model.config.image_token_id, self.model.config.video_token_id]
        written = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, suppress_tokens=never)
        completion: list[int] = written[0, inputs["input_ids"].shape[1] :].tolist()
        return completion


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    each: torch.dtype = request.param
    return each


@pytest.fixture
def conversations(pictures: list[Path]) -> list[Any]:
    tall, wide, narrow, square = pictures
    return [
        asked(tall),
        asked(square, narrow, before="compare this with what you see next: ", text="which is the larger one of them?"),
        [{"role": "user", "content": "no picture here"}],
        asked(wide, text="w"),
    ]


def completions(policy: Policy) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 200, (length,), generator=generator).tolist() for length in (3, 9, 5, 12)]


@torch.no_grad()
def test_hidden_states_are_those_of_transformers_beside_longer_and_shorter_sequences(
    either_folder: Path, conversations: list[Any], dtype: torch.dtype
) -> None:
    policy, plain = Policy.load(str(either_folder)).to(dtype), Plain(either_folder, dtype)
    written = completions(policy)
    prompts = policy.tokenizer.encode_all(conversations)

    with evaluating(policy):
        ours = policy.head(policy.hidden(list(map(TokenSequence, prompts, written))))

    expected = torch.cat([plain.logits(*pair) for pair in zip(conversations, written, strict=True)])
    limit = 1e-10 if dtype == torch.float64 else 2e-5
    assert (ours - expected).abs().max() < limit * expected.abs().max()


@torch.no_grad()
def test_decoding_gives_the_logits_of_reading_and_the_tokens_of_transformers(
    either_folder: Path, conversations: list[Any], dtype: torch.dtype
) -> None:
    policy, plain = Policy.load(str(either_folder)).to(dtype), Plain(either_folder, dtype)
    prompts = policy.tokenizer.encode_all(conversations)

    rollouts = generate(policy, [*prompts, prompts[1]], 12, GREEDY)

    for rollout, conversation in zip(rollouts, [*conversations, conversations[1]], strict=True):
        assert rollout.completion == plain.greedy(conversation, 12)
        logits = plain.logits(conversation, rollout.completion)
        logits[:, policy.unnamed_ids] = -torch.inf
        expected = logits.log_softmax(-1)[range(len(rollout.completion)), rollout.completion]
        assert torch.allclose(torch.tensor(rollout.log_probabilities, dtype=dtype), expected, rtol=0, atol=1e-4)
    assert len({tuple(each.completion) for each in rollouts}) > 2


def test_a_rollout_does_not_depend_on_its_neighbours_nor_on_what_was_read_before(
    seeing: Policy, conversations: list[Any]
) -> None:
    policy = seeing.to(torch.float64)
    prompts = policy.tokenizer.encode_all(conversations)
    seeds = [4, 5, 6, 7]
    together = generate(policy, prompts, 16, Sampling(), seeds)
    policy.model.model.rope_deltas = torch.tensor([[99]])  # as transformers' own generate leaves it behind

    alone = [generate(policy, [prompt], 16, Sampling(), [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]

    assert [each.completion for each in alone] == [each.completion for each in together]


def test_other_images_with_the_same_tokens_are_other_prompts(seeing: Policy, tmp_path: Path) -> None:
    paths = [tmp_path / "black.png", tmp_path / "white.png"]
    for path, shade in zip(paths, (0, 255), strict=True):
        Image.new("RGB", (24, 24), (shade, 255 - shade, shade)).save(path)
    prompts = seeing.tokenizer.encode_all([asked(path) for path in paths])
    assert list(prompts[0]) == list(prompts[1])

    with evaluating(seeing), torch.no_grad():
        state = seeing.prefill(prompts)

    assert not torch.allclose(state.logits[0], state.logits[1], atol=1e-3)


def test_a_pil_image_is_read_as_its_file(seeing: Policy, pictures: list[Path]) -> None:
    with Image.open(pictures[0]) as image:
        prompts = seeing.tokenizer.encode_all([asked(pictures[0]), asked(image)])
        sequences = [TokenSequence(prompt, [7, 8]) for prompt in prompts]
        with evaluating(seeing), torch.no_grad():
            file, given = seeing.hidden(sequences).chunk(2)
    assert torch.equal(file, given)


def test_a_prompt_that_has_lost_its_images_is_refused(seeing: Policy, pictures: list[Path]) -> None:
    prompt = seeing.tokenizer.encode(asked(pictures[0]))
    assert isinstance(prompt, Prompt)
    with pytest.raises(PolicyError, match="tokens of more than its 0 images"):
        seeing.hidden([TokenSequence(list(prompt), [7])])


def test_image_tokens_are_never_written(seeing: Policy) -> None:
    assert seeing.tokenizer.images is not None
    assert {*seeing.tokenizer.images.tokens} <= {*seeing.unnamed_ids.tolist()}
    state = seeing.prefill([seeing.tokenizer.encode([{"role": "user", "content": "a"}])])
    assert state.logits[0, list(seeing.tokenizer.images.tokens)].isinf().all()


def test_vision_layers_get_a_gradient(seeing: Policy, pictures: list[Path]) -> None:
    prompt = seeing.tokenizer.encode(asked(pictures[0]))
    seeing.hidden([TokenSequence(prompt, [7, 8])]).square().sum().backward()
    gradients = {name: each.grad for name, each in seeing.model.named_parameters() if "visual" in name}
    assert gradients
    assert all(each is not None and each.any() for each in gradients.values())
