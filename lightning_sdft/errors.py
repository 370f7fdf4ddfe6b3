"""The errors that users can act on; each message says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ChatError",
    "CheckpointError",
    "DataError",
    "HubError",
    "PolicyError",
    "PriorTaskError",
    "Refusal",
    "RolloutError",
    "SettingError",
    "did_you_mean",
    "placed",
]


class Refusal(Exception):
    """Base class of these errors; the command line prints them without a traceback."""


class ChatError(Refusal, ValueError):
    """A chat model cannot be used: the key is refused, or there is no such model or server; the message says which."""


class CheckpointError(Refusal, RuntimeError):
    """A checkpoint cannot be used; the message names the file, says why, and what to do."""


class DataError(Refusal, ValueError):
    """Data cannot be used for training or grading; the message names the file, row or example, and says what to do."""


class HubError(Refusal, RuntimeError):
    """The Hugging Face hub does not take what is to be uploaded; the message says why, and what to do."""


class PolicyError(Refusal, ValueError):
    """A model or tokenizer cannot be used as a policy; the message says why, and what to do."""


class PriorTaskError(Refusal, ValueError):
    """A prior task cannot be run; the message names it, and says what to do."""


class RolloutError(Refusal, RuntimeError):
    """A rollout engine cannot sample what was asked for; the message says why, and what to do."""


class SettingError(Refusal, ValueError):
    """A setting is not allowed; the message names it, and says what to do."""


def placed(where: str, message: object) -> str:
    """A message that begins with the place it is about, once.

    Example:
        >>> placed("a.jsonl, row 1", "no prompt"), placed("a.jsonl, row 1", "a.jsonl, row 1, turn 2: no role")
        ('a.jsonl, row 1: no prompt', 'a.jsonl, row 1, turn 2: no role')
    """
    text = str(message)
    return text if text.startswith((f"{where}:", f"{where},")) else f"{where}: {text}"


def did_you_mean(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """`; did you mean X?` if one of the names is close to a name.

    Args:
        name: What was given.
        names: What there is.
        otherwise: What to say if none is close.
    """
    close = get_close_matches(name, [each for each in names if each != name], n=1)
    return f"; did you mean {close[0]}?" if close else otherwise
