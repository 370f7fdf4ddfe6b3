from __future__ import annotations

from io import StringIO

from rich.console import Console

from lightning_sdft.inspection.terminal import MOST, rendered
from tests.inspection.conftest import rollout_look, token_look


def printed(looks: list, color_system: str | None = None) -> str:  # type: ignore[type-arg]
    text = StringIO()
    console = Console(file=text, width=100, color_system=color_system, force_terminal=color_system is not None)  # type: ignore[arg-type]
    console.print(*rendered(looks, 1.0), sep="\n")
    return text.getvalue()


def test_control_characters_and_markup_do_nothing() -> None:
    text = printed([rollout_look("[red]x[/red] \x1b[2J\x07 :smile:")], "truecolor")
    assert "[red]x[/red]" in text
    assert ":smile:" in text
    assert "\\x1b[2J\\x07" in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text


def test_tokens_are_coloured_in_a_terminal_and_plain_elsewhere() -> None:
    look = rollout_look(tokens=[token_look("calm", 0.01), token_look("wild", 3.0), token_look(" early", 0, False)])
    plain, coloured = printed([look]), printed([look], "truecolor")
    assert "\x1b" not in plain
    assert "48;2;176;48;74mwild\x1b" in coloured
    assert "mcalm\x1b" not in coloured
    rows = [line.split() for line in plain.splitlines() if line[:1].isdigit()]
    assert rows[0] == ["1", "'calm'", "0.010", "0.25", "0.75", "'ours'=0.50", "'theirs'=0.50"]
    assert rows[2][1] == "['␣early']"
    assert "student, sampled (cut):" in plain


def test_long_rollout_shows_where_the_models_disagree_most() -> None:
    tokens = [token_look(f"t{index}", kl=index % 50 / 10) for index in range(100)]
    text = printed([rollout_look(tokens=tokens)])
    assert f"{MOST} of 100 tokens, those with the highest KL" in text
    shown = [int(line.split()[0]) for line in text.splitlines() if "'t" in line]
    assert shown == [*range(31, 51), *range(81, 101)]
