"""A chat model that runs in this process: a policy that generates."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.errors import ChatError, DataError, PolicyError, SettingError
from lightning_sdft.policy import Policy, load_tokenizer
from lightning_sdft.policy.precision import default_precision
from lightning_sdft.records import Message, Sampling
from lightning_sdft.rollout.in_process import generate
from lightning_sdft.settings import Count, PositiveShare, Seed, Temperature, check_ranges

__all__ = ["LocalChat"]

log = logging.getLogger(__name__)


class LocalChat(ChatModel):
    """A model that runs in this process. It is loaded on first use: in bfloat16 on the GPU if there is one.

    With a temperature above 0, the same conversation gets another reply each time. The reply depends on the seed, the
    conversation and how often this object was asked it before, but not on other conversations.

    Args:
        model: A Hugging Face folder or hub id, a ``.gguf`` file, ``zoo/laptop``, or a policy.
        max_tokens: Maximum number of tokens per reply. If a conversation is so long that this number does not fit into
            the model's context, it gets no reply; a warning gives the number of such conversations.
        temperature: Sampling temperature; 0 decodes greedily.
        top_p: Sample only from the most probable tokens whose probabilities add up to this value.
        batch_size: Number of conversations that are replied to at once.
        seed: Seed for sampling.
        template_arguments: Values of variables that the model's chat template reads, such as
            ``{enable_thinking: false}``; only for a model given by name.

    Raises:
        SettingError: If a number is out of range, or if a policy is given with template arguments.
    """

    def __init__(
        self,
        model: str | Policy,
        max_tokens: Count = 1024,
        temperature: Temperature = 0.0,
        top_p: PositiveShare = 1.0,
        batch_size: Count = 16,
        seed: Seed = 0,
        template_arguments: dict[str, Any] | None = None,
    ) -> None:
        check_ranges(LocalChat, locals())
        if template_arguments and not isinstance(model, str):
            raise SettingError("template_arguments are for a model given by name; give them to the policy's tokenizer")
        self.name = model if isinstance(model, str) else str(model.tokenizer.hugging_face.name_or_path)
        self.max_tokens = max_tokens
        self.sampling = Sampling(temperature, top_p)
        self.batch_size = batch_size
        self.seed = seed
        self.template_arguments = template_arguments
        self._policy = None if isinstance(model, str) else model
        self._loads = isinstance(model, str)
        self._asked: Counter[str] = Counter()

    @property
    def policy(self) -> Policy:
        """The model, loaded on first access.

        Raises:
            ChatError: If the model cannot be loaded.
        """
        if self._policy is None:
            with _inference_precision() as device:
                try:
                    tokenizer = load_tokenizer(self.name, template_arguments=self.template_arguments)
                    self._policy = Policy.load(self.name, tokenizer=tokenizer).to(device)
                except (OSError, PolicyError) as error:
                    raise ChatError(f"the chat model {self.name!r} cannot be loaded: {error}") from error
        return self._policy

    @property
    def always_same(self) -> bool:
        """Whether the temperature is 0."""
        return self.sampling.temperature == 0

    def reply(
        self, conversations: Sequence[Sequence[Message]], on_reply: Callable[[int, str], None] | None = None
    ) -> list[str | None]:
        """Reply to conversations, a batch at a time; see :meth:`ChatModel.reply`."""
        replies: list[str | None] = [None] * len(conversations)
        if not conversations:
            return replies
        prompts = self._prompts(conversations)
        seeds = [self._seed(each) for each in conversations]
        room = (self.policy.max_tokens or sys.maxsize) - self.max_tokens
        fitting = [index for index, prompt in prompts.items() if len(prompt) <= room]
        for start in range(0, len(fitting), self.batch_size):
            batch = fitting[start : start + self.batch_size]
            rollouts = generate(
                self.policy,
                [prompts[index] for index in batch],
                self.max_tokens,
                self.sampling,
                [seeds[index] for index in batch],
            )
            for index, rollout in zip(batch, rollouts, strict=True):
                text = self.policy.tokenizer.decode(rollout.completion)
                replies[index] = text
                if on_reply is not None:
                    on_reply(index, text)
        if len(fitting) < len(prompts):
            log.warning(
                "%s: no reply to %d of %d conversations, which with max_tokens=%d exceed the %d tokens it can read",
                self.name,
                len(prompts) - len(fitting),
                len(prompts),
                self.max_tokens,
                self.policy.max_tokens,
            )
        return replies

    def _prompts(self, conversations: Sequence[Sequence[Message]]) -> dict[int, list[int]]:
        """The token ids of each conversation; those that the model's chat template or tokenizer refuses are left out.

        A warning gives the number of such conversations.
        """
        try:
            return dict(enumerate(self.policy.tokenizer.encode_all(conversations)))
        except DataError:
            prompts, problems = {}, []
        for index, conversation in enumerate(conversations):
            try:
                prompts[index] = self.policy.tokenizer.encode(conversation)
            except DataError as error:
                problems.append(error)
        refused = (self.name, len(problems), len(conversations), problems[0])
        log.warning("%s: no reply to %d of %d conversations, which it cannot read; the first: %s", *refused)
        return prompts

    def __getstate__(self) -> dict[str, Any]:
        """Leave a model that was given by name out of copies, which load it themselves on first use."""
        return {**self.__dict__, "_policy": None if self._loads else self._policy}

    def _seed(self, conversation: Sequence[Message]) -> int:
        """Seed for the next reply to a conversation."""
        text = json.dumps([[turn["role"], turn["content"]] for turn in conversation])
        occurrence = self._asked[text]
        self._asked[text] += 1
        digest = hashlib.sha256(f"{self.seed} {occurrence} {text}".encode()).digest()
        return int.from_bytes(digest[:8]) >> 2


@contextmanager
def _inference_precision() -> Iterator[torch.device]:
    """The device for inference, with torch's default dtype set for it: bfloat16 on a GPU."""
    on_gpu = torch.cuda.is_available()
    with default_precision(torch.bfloat16 if on_gpu else torch.get_default_dtype()):
        yield torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
