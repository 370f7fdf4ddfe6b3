"""Finding out which columns of a table hold the prompts and the demonstrations.

Known are the layouts of the common formats: columns of prompts and responses, Alpaca's ``instruction``, ``input`` and
``output``, and whole conversations, as ``messages`` with ``role`` and ``content`` or ShareGPT's ``conversations`` with
``from`` and ``value``, whose last turn is the demonstration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from lightning_sdft.data.conversations import ends_with_response
from lightning_sdft.data.json_files import BadRow, Row
from lightning_sdft.errors import DataError, did_you_mean

__all__ = ["AUTO", "FIRST", "Layout", "find_layout"]

AUTO = "auto"
"""Name that stands for a column to be found."""

PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("question", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
    ("query", "response"),
)
"""Columns that are known to belong together: a prompt and its demonstration."""

PROMPTS = tuple(dict.fromkeys(prompt for prompt, _ in PAIRS))
DEMONSTRATIONS = tuple(dict.fromkeys(demonstration for _, demonstration in PAIRS))
CONVERSATIONS = ("messages", "conversations", "conversation")
SYSTEMS = ("system", "system_prompt")

LOOKED_FOR = "prompt/response, prompt/completion, question/answer, instruction/input/output, messages, conversations"

FIRST = 20
"""Number of rows that are looked at. A column of prompts or demonstrations has a value in at least half of them."""

Pair = tuple[str, str | None]


@dataclass(frozen=True)
class Layout:
    """What the columns of a table are read as; its text says so in one line.

    Args:
        prompt: Column of the prompt, a text or a conversation.
        demonstration: Column of the demonstration, or ``None``. If it is that of the prompt, the demonstration is the
            last turn of a conversation, and the prompt is what comes before.
        input: Column of text that follows the prompt after a blank line, if it is not empty.
        system: Column of the system turn.
        unused: The other columns.

    Example:
        >>> rows = [{"id": 7, "instruction": "Add.", "input": "2, 3", "output": "5"}]
        >>> print(find_layout(rows))
        prompts are 'instruction' and 'input', demonstrations are 'output'; not used: 'id'
    """

    prompt: str
    demonstration: str | None
    input: str | None = None
    system: str | None = None
    unused: tuple[str, ...] = ()

    @property
    def is_conversation(self) -> bool:
        """Whether the demonstration is the last turn of the prompt's column."""
        return self.demonstration == self.prompt

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        columns = (self.prompt, self.input, self.demonstration, self.system)
        return tuple(dict.fromkeys(column for column in columns if column is not None))

    def __str__(self) -> str:
        prompts = f"prompts are {self.prompt!r}{f' and {self.input!r}' if self.input else ''}"
        demonstrations = f", demonstrations are {self.demonstration!r}" if self.demonstration else ", no demonstrations"
        if self.is_conversation:
            prompts, demonstrations = f"prompts are the turns of {self.prompt!r}", ", demonstrations the last of them"
        system = f", system turns are {self.system!r}" if self.system else ""
        unused = f"; not used: {_listed(self.unused)}" if self.unused else ""
        return f"{prompts}{demonstrations}{system}{unused}"


def find_layout(
    rows: Sequence[Row],
    prompt: str = AUTO,
    demonstration: str | None = AUTO,
    taken: Collection[str] = (),
    graded: Collection[str] = (),
    needed: bool = True,
    setting: str = "data",
) -> Layout:
    """Find the layout of a table in its first rows. Upper and lower case make no difference.

    Args:
        rows: The rows.
        prompt: The column of prompts, if it is known.
        demonstration: The column of demonstrations, if it is known; ``None`` if there are to be none.
        taken: Columns that are known to hold something else.
        graded: Columns that answers are compared with; they are read as demonstrations only if no others are there.
        needed: Whether there must be demonstrations.
        setting: The setting that has ``prompt_column`` and ``demonstration_column``, for errors.

    Raises:
        DataError: If no column is known, or several are. The message says which were found, what was looked for, and
            what to set.
    """
    first = list(islice(_readable(rows), FIRST))
    all_read = _readable(rows) if isinstance(rows, list) else first  # a saved data set has the same columns throughout
    columns = [name for name in dict.fromkeys(name for row in all_read for name in row) if name not in taken]
    filled = [name for name in columns if 2 * sum(row.get(name) is not None for row in first) >= len(first)]
    wanted = {"prompt_column": prompt, "demonstration_column": demonstration if needed else AUTO}
    for argument, name in wanted.items():
        if name not in (AUTO, None, *columns, *taken):
            raise DataError(
                f"{setting}.{argument}={name}: there is no such column{did_you_mean(str(name), columns)}; the columns "
                f"are {_listed(columns)}"
            )
    pairs = _candidates(first, [name for name in filled if name not in graded], prompt, demonstration)
    if not pairs and needed:
        pairs = _candidates(first, filled, prompt, demonstration)
    if not pairs and not needed:
        pairs = _candidates(first, filled, prompt, None)
    if len(pairs) != 1:
        raise DataError(_problem([*columns, *taken], pairs, prompt, demonstration, setting))

    ((found, shown),) = pairs
    optional = _by_name(columns) if prompt == AUTO else {}
    extra = optional.get("input") if _plain(found) == "instruction" else None
    system = next((optional[name] for name in SYSTEMS if name in optional), None)
    layout = Layout(found, shown, extra, system)
    unused = (name for name in columns if name not in (*layout.columns, *graded))
    return replace(layout, unused=tuple(unused))


def _candidates(first: Sequence[Row], columns: Sequence[str], prompt: str, demonstration: str | None) -> list[Pair]:
    """All that the columns can be read as: a prompt and a demonstration, the same column twice for a conversation."""
    known = _by_name(columns)
    prompts = [known[name] for name in PROMPTS if name in known] if prompt == AUTO else [prompt]
    conversations = [known[name] for name in CONVERSATIONS if name in known] if prompt == AUTO else []
    if prompt == AUTO and "instruction" in known and "input" in known:
        prompts.remove(known["input"])
    if demonstration is None:
        return [(each, None) for each in conversations or prompts]
    if demonstration == AUTO:
        if prompt != AUTO and ends_with_response(first, prompt):
            return [(prompt, prompt)]
        given = [known[name] for name in DEMONSTRATIONS if name in known and known[name] != prompt]
        return [*_pairs(prompts, given), *((each, each) for each in conversations)]
    if demonstration in conversations:
        return [(demonstration, demonstration)]
    others = [each for each in (*prompts, *conversations) if each != demonstration or each == prompt]
    return _pairs(others, [demonstration])


def _pairs(prompts: Sequence[str], demonstrations: Sequence[str]) -> list[Pair]:
    """Those that are known to belong together, or else all."""
    pairs: list[Pair] = [(prompt, each) for prompt in prompts for each in demonstrations]
    return [pair for pair in pairs if tuple(map(_plain, pair)) in PAIRS] or pairs


def _readable(rows: Sequence[Row]) -> Iterator[Row]:
    return (row for row in rows if not isinstance(row, BadRow))


def _plain(name: str | None) -> str:
    return (name or "").strip().casefold()


def _by_name(columns: Sequence[str]) -> dict[str, str]:
    """Columns by their name in lower case; of several, the one that is written so."""
    return {**{_plain(name): name for name in reversed(columns)}, **{name: name for name in columns}}


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _problem(
    columns: Sequence[str], pairs: Sequence[Pair], prompt: str, demonstration: str | None, setting: str
) -> str:
    have = f"the columns are {_listed(columns)}"
    if pairs:
        ways = " or ".join(each if each == other or other is None else f"{each}/{other}" for each, other in pairs)
        several = "prompt" if len({each for each, _ in pairs}) > 1 else "demonstration"
        return f"{have}, which can be read as {ways}; set {setting}.{several}_column"
    has_prompt = prompt != AUTO or any(_plain(name) in PROMPTS for name in columns)
    if demonstration == AUTO and has_prompt:
        return (
            f"no column of demonstrations is known: {have}; looked for {_listed(DEMONSTRATIONS)}. Set "
            f"{setting}.demonstration_column, to null if there are none"
        )
    if demonstration != AUTO:
        looked_for = _listed((*PROMPTS, *CONVERSATIONS))
        return f"no column of prompts is known: {have}; looked for {looked_for}. Set {setting}.prompt_column"
    return (
        f"no layout is known in which {have}; looked for {LOOKED_FOR}. Set {setting}.prompt_column and "
        f"{setting}.demonstration_column"
    )
