"""A Hugging Face causal language model used as a policy.

Only the files of this folder use the model API of transformers.

Letters: B sequences, N completion tokens of all sequences, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from lightning_sdft.errors import PolicyError
from lightning_sdft.losses.head import Head
from lightning_sdft.policy import lora
from lightning_sdft.policy.adapter_export import merged_weights
from lightning_sdft.policy.decoding import DecodingState, buckets, call_tokens, shared_prefix
from lightning_sdft.policy.fixed_decoding import FixedState
from lightning_sdft.policy.layout import (
    Layout,
    cut_into_trees,
    in_one_row,
    in_rows,
    in_trees,
    longest_row,
    longest_tree,
)
from lightning_sdft.policy.loading import load_model
from lightning_sdft.policy.prefix import Prefix, worth_sharing
from lightning_sdft.policy.prefix_probe import reads_prefixes
from lightning_sdft.policy.probe import post_processing, probe, read_alone
from lightning_sdft.policy.saving import save_model
from lightning_sdft.policy.tokenizer import Tokenizer, load_tokenizer
from lightning_sdft.policy.tree_probe import reads_trees
from lightning_sdft.records import TokenSequence

__all__ = ["Policy"]


class Policy(nn.Module):
    """A causal language model used as a policy pi(completion | prompt).

    Args:
        model: A Hugging Face causal language model.
        tokenizer: Its tokenizer.
        probing: Whether to check for a few tokens that neither later tokens nor other sequences change what the
            policy computes; see :func:`lightning_sdft.policy.probe.probe`.

    Attributes:
        scale: Factor on the logits.
        soft_cap: Limit of the logits, if there is one.
        unnamed_ids: Ids that the model has and the tokenizer does not, and those that stand for images; they are never
            sampled.
        filler: The id that fills rows of different lengths.
        reads_trees: Whether the model computes the same for sequences in a tree as in rows; see
            :func:`lightning_sdft.policy.tree_probe.reads_trees`.
        longest_tree: Largest number of tokens in a tree, or ``None``.
        pair_cost: Cost of the attention of one token to another, as a share of that of a token's other products: blocks
            of width D have some `12 D^2` weights.

    Raises:
        PolicyError: If the model lacks the token that ends a response, makes logits in an unknown way, or does not
            pass the probe.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, probing: bool = True) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        rows = len(model.get_input_embeddings().weight)
        if tokenizer.end_id >= rows:
            raise PolicyError(
                f"{type(model).__name__} has embeddings for {rows} tokens, but a response ends with token "
                f"{tokenizer.end_id}; use the tokenizer that belongs to the model, or resize its embeddings"
            )
        named = tokenizer.known_ids - ({*tokenizer.images.tokens} if tokenizer.images is not None else set())
        unnamed = [token for token in range(rows) if token not in named]
        self.unnamed_ids = torch.tensor(unnamed, dtype=torch.long)
        self.filler = tokenizer.pad_id if tokenizer.pad_id < rows else tokenizer.end_id
        alone = read_alone(model, tokenizer)
        self.scale, self.soft_cap = post_processing(model, alone)
        self.longest_tree = longest_tree(model.config.get_text_config(), self.max_tokens)
        self.pair_cost = 1 / (6 * model.get_input_embeddings().weight.shape[1])
        self.reads_trees = False
        self.probing = probing and tokenizer.images is None
        if probing:
            probe(self, alone)
            self.reads_trees = tokenizer.images is None and reads_trees(self)

    @classmethod
    def load(
        cls,
        name: str,
        pretrained: bool = True,
        attention: str | None = None,
        trust_remote_code: bool = False,
        tokenizer: Tokenizer | None = None,
        probing: bool = True,
    ) -> Policy:
        """Load a model in train mode and in torch's default dtype, which Lightning sets according to the precision.

        Args:
            name: A Hugging Face folder or hub id, a ``.gguf`` file, or ``zoo/laptop``, the model in this package.
            pretrained: Whether to load the weights; otherwise they are initialised at random.
            attention: Attention implementation, as transformers names it; by default SDPA if the model supports it
                (Gemma 2 does not), else eager.
            trust_remote_code: Whether code that comes with the model may be run.
            tokenizer: The model's tokenizer, if it is loaded already.
            probing: See :class:`Policy`.

        Raises:
            PolicyError: If the model cannot be loaded as it is, or does not pass the probe.
        """
        tokenizer = tokenizer or load_tokenizer(name, trust_remote_code)
        model = load_model(name, pretrained, attention, trust_remote_code)
        return cls(model.train(), tokenizer, probing)

    @property
    def head(self) -> Head:
        """The output head, which turns hidden states into logits."""
        layer = self.model.get_output_embeddings()
        return Head(layer.weight, layer.bias, self.soft_cap, self.scale, lora.low_rank(layer))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.model.device
        return device

    @property
    def config(self) -> Any:
        """The model's Hugging Face config."""
        return self.model.config

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype in which the model computes: autocast's where it is on, else that of the weights."""
        device = self.device.type
        dtype: torch.dtype = self.model.dtype
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype

    @property
    def max_tokens(self) -> int | None:
        """Length of the longest sequence that the model reads without regard to others, or ``None`` without a limit."""
        return longest_row(self.model.config.get_text_config())

    def blocks(self) -> list[nn.Module]:
        """The model's transformer blocks, the units of sharding and offloading; empty if transformers names none."""
        names = set(self.model._no_split_modules or ())
        return [module for module in self.model.base_model.modules() if type(module).__name__ in names]

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def hidden(self, sequences: Sequence[TokenSequence], packed: bool = False, prefix: Prefix | None = None) -> Tensor:
        """Hidden states at the positions that predict completion tokens.

        What sequences begin with alike is computed once where that costs less and the model permits; see
        :mod:`lightning_sdft.policy.layout`.

        Args:
            sequences: Prompts with completions; none of them attends to another.
            packed: Whether to concatenate all sequences in one row, without padding, instead of one row for each.
                Not every model keeps packed sequences apart; see
                :func:`lightning_sdft.policy.probe.check_packing`.
            prefix: What all of them begin with, if it has been read already.

        Returns:
            `(N, D)`, in the order of the sequences.
        """
        if packed:
            return self.read(in_one_row(sequences, self.device))
        if prefix is None:
            return self.read(self.laid_out(sequences))
        return self.read(prefix.moved(self.laid_out(prefix.behind(sequences), len(prefix))))

    def laid_out(self, sequences: Sequence[TokenSequence], before: int = 0) -> Layout:
        """The layout that costs least, of sequences behind so many tokens: as trees, or one row for each."""
        trees = self.trees(sequences, before)
        if trees is not None:
            return in_trees(sequences, trees, self.filler, self.device)
        return in_rows(sequences, self.filler, self.device, self.tokenizer.images)

    def trees(self, sequences: Sequence[TokenSequence], before: int = 0) -> list[list[int]] | None:
        """Which sequences to read together in a tree; ``None`` if each is better read in a row of its own."""
        limit = None if self.longest_tree is None else self.longest_tree - before
        return cut_into_trees(sequences, self.pair_cost, limit) if self.reads_trees else None

    def share_prefix(self, batches: Sequence[Sequence[TokenSequence]]) -> Prefix | None:
        """Read once what all sequences of several micro-batches begin with, if that pays and the model permits."""
        shared = worth_sharing(batches, self.trees, self.pair_cost)
        return Prefix(self.model, shared, self.device) if shared and self.reads_prefixes else None

    @cached_property
    def reads_prefixes(self) -> bool:
        """Whether the model computes the same behind a prefix that it has read before."""
        return self.probing and reads_prefixes(self, self.reads_trees)

    def read(self, layout: Layout) -> Tensor:
        """Hidden states `(N, D)` at the positions of a layout that predict completion tokens."""
        inputs = {"use_cache": False} | layout.arguments(self.model.config, self.compute_dtype)
        hidden: Tensor = self.model.base_model(**inputs).last_hidden_state[layout.predicting]
        return hidden

    def prefill(self, prompts: Sequence[list[int]]) -> DecodingState:
        """Run the model on prompts to generate from them; see :meth:`prefill_each`."""
        return next(self.prefill_each(prompts, [len(prompts)]))

    def prefill_each(self, prompts: Sequence[list[int]], counts: Sequence[int]) -> Iterator[DecodingState]:
        """Run the model on prompts to generate from them several times.

        Equal prompts are computed once, and so is a prefix that all prompts share. Prompts of similar length are
        batched together.

        Args:
            prompts: Token ids of each prompt.
            counts: For each time the number of prompts, from the first one on, to generate from.

        Returns:
            For each time a state of its own, made when it is asked for.
        """
        keys = [(tuple(prompt), getattr(prompt, "images", ())) for prompt in prompts]
        distinct = dict(sorted(zip(keys, prompts, strict=True), key=lambda each: len(each[1]), reverse=True))
        worth = call_tokens(self.model)
        prefix = [] if any(images for _, images in distinct) else shared_prefix([ids for ids, _ in distinct], worth)
        begun = self._read_prompts([prefix]) if prefix else None
        states = [self._read_prompts(bucket, begun) for bucket in buckets(list(distinct.values()), worth)]
        index = {key: row for row, key in enumerate(distinct)}
        rows = [index[key] for key in keys]
        again = len(counts) - 1
        return (DecodingState.merged(states, rows[:count], keep=time < again) for time, count in enumerate(counts))

    def advance(self, state: DecodingState | FixedState, tokens: Tensor) -> None:
        """Append one token to each sequence, `(B,)`, and compute the logits of the next token."""
        state.logits = self._next_logits(state.read(tokens[:, None]))

    def _read_prompts(self, prompts: Sequence[Sequence[int]], prefix: DecodingState | None = None) -> DecodingState:
        width, start = len(prompts[0]), 0 if prefix is None else prefix.length
        padded = [[self.filler] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        reader = self.tokenizer.images
        images = {} if reader is None else reader.inputs(prompts, prompts, left=True)
        images = {name: each.to(self.device) for name, each in images.items()}
        padding, places = [width - len(prompt) for prompt in prompts], images.pop("position_ids", None)
        state = DecodingState(self.model, padding, width, prefix, places)
        state.logits = self._next_logits(state.read(torch.tensor(padded, device=self.device)[:, start:], **images))
        return state

    def _next_logits(self, hidden: Tensor) -> Tensor:
        """Logits `(B, V)` that exclude the ids for which the tokenizer has no token."""
        logits = self.head(hidden)
        if len(self.unnamed_ids):
            self.unnamed_ids = self.unnamed_ids.to(logits.device)  # once, for it waits for the device
            logits.index_fill_(1, self.unnamed_ids, -torch.inf)
        return logits

    def weights(self) -> dict[str, Tensor]:
        """The weights by their names in a Hugging Face checkpoint; tied weights appear under each of their names.

        If the model has an adapter, it is merged into them.
        """
        weights: dict[str, Tensor] = revert_weight_conversion(self.model, merged_weights(self.model))
        return weights

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Save to a folder that ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained`` read.

        For a model that reads images, these are ``AutoModelForImageTextToText`` and ``AutoProcessor``. Its generation
        config names all the tokens that end a response here.

        Args:
            folder: Folder to write to.
            dtype: Precision of the weights in the files; by default the model's own.

        Raises:
            PolicyError: If the model has an adapter, whose layers ``from_pretrained`` would not know.
        """
        save_model(self.model, self.tokenizer, folder, dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Policy:
        """Move and cast the module, but keep float32 buffers and adapters in their dtype.

        Rotary frequencies in bfloat16 would misplace tokens far from the start, and small updates of an adapter in
        bfloat16 would round to nothing.
        """
        buffers = (buffer for buffer in self.buffers() if buffer.dtype == torch.float32)
        exact = {id(tensor): tensor for tensor in (*buffers, *lora.adapter_weights(self.model).values())}

        def apply(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return tensor.to(applied.device) if id(tensor) in exact and applied.dtype != tensor.dtype else applied

        super()._apply(apply, *args, **kwargs)  # type: ignore[no-untyped-call]
        return self
