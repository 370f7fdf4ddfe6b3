"""Every number that a user can set has a range beside it, and is refused outside of it, from Python and from YAML."""

from __future__ import annotations

import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Annotated, Any, get_args, get_type_hints

import pytest

import lightning_sdft
from lightning_sdft.cli import COMMANDS
from lightning_sdft.commands.fit import main
from lightning_sdft.errors import Refusal, SettingError
from lightning_sdft.settings import Count, Range, Seed, Share, check_ranges, ranges

NOT_SETTINGS = {
    "Accepted", "Asking", "Attempt", "BlankReader", "Budgets", "Candidate", "Ceiling", "Chain", "Contrast", "Details",
    "Estimate", "Fitting", "Forecast", "Gap", "Group", "Head", "Image", "ImageReader", "Inspection", "Item", "Layout",
    "Lengths", "Line", "Matched", "Mean", "MicroBatch", "NonFiniteLossError", "Outcome", "Pace", "Pairs", "Parsed",
    "Phase", "Point", "Prefix", "Preflight", "PriorScore", "PriorScores", "Prompt", "Reading", "Rehearsal", "Remedy",
    "Result", "Rollout", "Room", "Row", "RunsLines", "Score", "SeedContrast", "Sign", "SignalEar", "Sizes",
    "SkillRetention", "Stage", "StepTokens", "StopSignal", "TensorSum", "TokenLook", "TokenSequence", "Tokenizer",
    "Told", "TrainerPlan", "Usage", "Variant", "Weights", "Work",
}  # fmt: skip
"""Classes whose numbers are found out or worked out, and not set by anybody."""

BEHIND_SETTINGS = {
    "Answering",
    "Asker",
    "ControlTokens",
    "DecodingState",
    "Distinct",
    "FixedState",
    "GroupLoader",
    "HeldOut",
    "Informing",
    "MixedTeacher",
    "PolicyLM",
    "Range",
    "RecordedStep",
    "Samples",
    "Scored",
    "Sweep",
}
"""Classes that get their numbers from settings with a range."""


def public_classes() -> Iterator[type]:
    """All public classes of the package, each once."""
    seen = set()
    for found in pkgutil.walk_packages(lightning_sdft.__path__, "lightning_sdft."):
        if found.name in ("lightning_sdft.__main__", "lightning_sdft.rollout.vllm.worker"):
            continue
        module = import_module(found.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if isinstance(value, type) and value.__module__.startswith("lightning_sdft") and value not in seen:
                seen.add(value)
                yield value


def numbers(owner: Callable[..., Any]) -> list[str]:
    """The arguments of a class or function that are numbers, or hold some."""
    function = owner.__init__ if isinstance(owner, type) else owner  # type: ignore[misc]
    if not inspect.isfunction(function) or not function.__module__.startswith("lightning_sdft"):
        return []
    return [name for name, hint in get_type_hints(function).items() if name != "return" and {int, float} & parts(hint)]


def parts(hint: Any) -> set[Any]:
    inner = hint if isinstance(hint, list) else get_args(hint)  # a list: the arguments of a Callable
    return set().union(*map(parts, inner)) if inner else {hint}


OWNERS = [
    *(each for each in public_classes() if each.__name__ not in NOT_SETTINGS | BEHIND_SETTINGS),
    *COMMANDS.values(),
]
SETTINGS = [(owner, name) for owner in OWNERS for name in numbers(owner)]


def inside(allowed: Range | None, hint: str) -> Any:
    """A value that may be set."""
    if allowed is None:
        return None
    return [] if re.search("list|Sequence|Mapping", hint) else allowed.low + 1


def test_every_number_that_can_be_set_has_a_range() -> None:
    assert len(SETTINGS) > 60
    assert [f"{owner.__name__}.{name}" for owner, name in SETTINGS if name not in ranges(owner)] == []


@pytest.mark.parametrize(
    ("owner", "name"), SETTINGS, ids=[f"{getattr(owner, '__name__', owner)}.{name}" for owner, name in SETTINGS]
)
def test_number_out_of_its_range_is_refused_by_its_name(owner: Callable[..., Any], name: str) -> None:
    allowed = ranges(owner)[name]
    above = [allowed.high + 1, allowed.high] if allowed.open_high else [allowed.high + 1]
    outside = [allowed.low - 1, *([allowed.low] if allowed.open_low else []), *above, math.nan, math.inf, True, "3"]
    needed = inspect.signature(owner).parameters.values()
    hints = get_type_hints(owner.__init__ if isinstance(owner, type) else owner)  # type: ignore[misc]
    others = {
        each.name: inside(ranges(owner).get(each.name), str(hints[each.name]))
        for each in needed
        if each.default is each.empty and each.kind is not each.VAR_KEYWORD
    }
    hint = str(hints[name])
    for number in outside:
        value = {"some": number} if "Mapping" in hint else [number] if re.search("list|Sequence", hint) else number
        with pytest.raises(
            SettingError, match=rf"\b{name}={re.escape(repr(value))} must be .*{re.escape(str(allowed))}"
        ):
            owner(**{**others, name: value})


def test_refusal_is_a_value_error_too() -> None:
    assert issubclass(SettingError, ValueError)
    assert issubclass(SettingError, Refusal)


@pytest.mark.parametrize(
    ("allowed", "within", "outside"),
    [
        (Range(1), [1, 7, 10**9], [0, -1, math.nan, math.inf]),
        (Range(0, open_low=True), [1e-9, 5.0], [0, 0.0, -1e-9, math.inf, -math.inf]),
        (Range(0, 1), [0, 1, 0.5], [-0.1, 1.1, math.nan]),
        (Range(0, 1, open_high=True), [0, 0.999], [1]),
        (Range(0.5, 2, or_zero=True), [0, 0.0, 0.5, 2], [0.1, 2.1, -1]),
    ],
)
def test_range_has_its_bounds_and_only_finite_numbers(
    allowed: Range, within: list[float], outside: list[float]
) -> None:
    assert [value for value in within if value not in allowed] == []
    assert [value for value in outside if value in allowed] == []


def test_lists_mappings_and_none_are_checked_as_the_type_says() -> None:
    def function(
        count: Count = 1,
        some: Count | None = None,
        seeds: list[Seed] | None = None,
        shares: Annotated[dict[str, Share], "other"] | None = None,
    ) -> None:
        check_ranges(function, locals())

    function(3, None, [1, 2])
    function(some=2, seeds=[])
    with pytest.raises(SettingError, match=r"function: count=None must be a whole number >= 1"):
        function(None)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"count=1\.5 must be a whole number"):
        function(1.5)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"seeds=\[1, -1\] must be whole numbers within \[0, 4294967295\]"):
        function(seeds=[1, -1])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model=SFTModule", "--model.learning_rate=.nan"], "learning_rate=nan"),
        (["--model=SDFTModule", "--model.skip_tokens=-1"], "skip_tokens=-1 must be a whole number >= 0"),
        (["--model=SDFTModule", "--model.sampling.temperature=1e-9"], "temperature=1e-09"),
        (["--model=SFTModule", "--data=StringSkillsDataModule", "--data.batch_size=-4"], "batch_size=-4"),
        (["--model=SFTModule", "--trainer.callbacks=LastCheckpoints", "--trainer.callbacks.keep=0"], "keep=0"),
        (["--model=SFTModule", "--trainer.limit_train_batches=-1"], "invalid value -1 for limit_train_batches"),
        (["--model=SFTModule", "--seed_everything=-1"], "seed_everything=-1 must be a whole number within"),
        (
            ["--model=SFTModule", "--trainer.accelerator=cpu", "--trainer.devices=-2"],
            "Trainer: `devices` selected with",
        ),
        (["--model=SFTModule", "--trainer.max_epochs=-5"], "`max_epochs` must be a non-negative integer or -1"),
    ],
)
def test_number_out_of_its_range_is_refused_on_the_command_line(arguments: list[str], named: str) -> None:
    defaults = ["--model.model=zoo/laptop", *([] if "--data" in str(arguments) else ["--data=StringSkillsDataModule"])]
    with pytest.raises(SettingError, match=re.escape(named)) as refused:
        main([arguments[0], *defaults, *arguments[1:]], run=False)
    assert "Namespace(" not in str(refused.value)


def test_help_shows_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help=SDFTModule"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "linear warm-up, after which the rate falls to 0 along a cosine (>= 0). (type: int" in shown
    assert "0 takes the most probable token (greedy), and others are from 0.001 to 100." in shown
