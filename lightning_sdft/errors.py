"""What this package refuses. Each message says what is wrong, where, and what to do."""

from __future__ import annotations

__all__ = [
    "ChatError",
    "CheckpointError",
    "DataError",
    "PolicyError",
    "PriorTaskError",
    "Refusal",
    "RolloutError",
    "SettingError",
]


class Refusal(Exception):  # what it is; its kinds are errors
    """Base of all errors that say what to do; the command line prints them without a traceback."""


class ChatError(Refusal, ValueError):
    """A chat model that cannot be used at all: refused key, no such model, no such server; the message says why."""


class CheckpointError(Refusal, RuntimeError):
    """A checkpoint that cannot be used; the message says which file, why, and what to do."""


class DataError(Refusal, ValueError):
    """Data that cannot be trained or graded on; the message names file, row or example, and the way out."""


class PolicyError(Refusal, ValueError):
    """A model or tokenizer that cannot be used as a policy; the message says why and what to do."""


class PriorTaskError(Refusal, ValueError):
    """A prior task that cannot be run; the message names it and says what to do."""


class RolloutError(Refusal, RuntimeError):
    """An engine that cannot sample, or not what was asked for; the message says what to do."""


class SettingError(Refusal, ValueError):
    """A setting that is refused; the message names it."""
