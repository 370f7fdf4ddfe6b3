"""Continued pretraining on raw text, the baseline that trains on the articles as they are."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_sdft.modules.sft import SFTModule
from lightning_sdft.records import Example, TokenSequence

__all__ = ["CPTModule"]


class CPTModule(SFTModule):
    """CPT: `- sum_t log p(x_t | x_<t)` on the tokens of a text x, without chat template.

    The text is the example's demonstration; its prompt is not used. A text begins with the beginning-of-sequence token,
    if the tokenizer puts one before plain text, and ends with the end-of-sequence token. The first token is never
    predicted.

    A text with more than ``max_completion_tokens`` tokens to predict is over budget. With ``KnowledgeDataModule`` and
    ``train_on=articles``, long articles are split into passages of at most ``passage_length`` characters, each a text
    of its own. ``max_prompt_tokens`` applies only to evaluation, which asks questions in the chat template. The other
    arguments are those of :class:`SFTModule`.
    """

    conversational = False

    def demonstrations(self, examples: Sequence[Example]) -> list[TokenSequence]:
        """The texts as sequences: the first token is the prompt, and all others are the completion."""
        tokens = [self._tokens(example) for example in examples]
        return [TokenSequence(text[:1], text[1:]) for text in tokens]

    def missing(self, example: Example) -> str | None:
        """What an example lacks to be trained on, or ``None``."""
        return None if (example.demonstration or "").strip() else "text"

    def completion_problem(self, example: Example) -> str | None:
        """Why an example's text does not fit the completion budget, or ``None``."""
        length = len(self._tokens(example)) - 1
        if length > self.max_completion_tokens:
            return (
                f"its text has {length} tokens to predict, max_completion_tokens={self.max_completion_tokens} "
                "(lower data.passage_length makes passages shorter)"
            )
        return None

    def training_problem(self, example: Example) -> str | None:
        """Why an example's text does not fit the completion budget, or ``None``."""
        return self.completion_problem(example)

    def _tokens(self, example: Example) -> list[int]:
        """The tokens of the text without chat template, with one end-of-sequence token at the end."""
        tokens = self.tokenizer.encode_text(example.demonstration or "")
        end: int = self.tokenizer.hugging_face.eos_token_id
        return tokens if tokens[-1:] == [end] else [*tokens, end]
