"""What a comparison runs, in which order and in which folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.plan import BASE, Method, Plan, Variant, slug
from lightning_sdft.experiments.runs.run import Config, PriorBenchmarks
from lightning_sdft.trust import trusting

SEEDED = ["seed_everything", "data.init_args.shuffle_seed", "data.init_args.data_seed"]
PART: dict[str, Any] = {"model": {"init_args": {"model": "zoo", "learning_rate": 1}}, "data": {"skill": "{domain}"}}


def method(**arguments: Any) -> Method:
    return Method([PART], **arguments)


def plan(methods: dict[str, Method] | None = None, **changes: Any) -> Plan:
    methods = (
        {"SFT": method(), "SFT + re-invoke": method(after="SFT"), "SDFT": method()} if methods is None else methods
    )
    arguments = {"domains": ["a", "b"], "seeds": [0, 1], "learning_rates": [1e-5, 5e-5], "seeded": SEEDED}
    return Plan(**{**arguments, "methods": methods, **changes})


def merged(parts: Any) -> Config:
    """What parts come to, each over those before it."""
    result: Config = {}
    for part in parts:
        for name, value in part.items():
            old = result.get(name)
            result[name] = merged([old, value]) if isinstance(value, dict) and isinstance(old, dict) else value
    return result


@pytest.mark.parametrize("after", [{"a": "b", "b": "c", "c": "a"}, {"a": "a"}])
def test_methods_that_wait_for_each_other_are_refused(after: dict[str, str]) -> None:
    with pytest.raises(SettingError, match=r"methods wait for each other: .* after ") as error:
        plan({name: method(after=other) for name, other in after.items()}).check()
    assert all(f"{name}" in str(error.value) for name in after)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"domains": []}, "domains is empty; there is nothing to compare"),
        ({"methods": {}}, "methods is empty"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: two of them would share a folder"),
        (
            {"domains": ["Tool use", "tool-use"]},
            r"domains=\['Tool use', 'tool-use'\]: two of them would share a folder",
        ),
        ({"methods": {"SFT + x": method(), "sft-x": method()}}, r"methods=\['SFT \+ x', 'sft-x'\]: two of them"),
        ({"rate_seeds": 0}, "rate_seeds=0 must be a whole number >= 1"),
        ({"methods": {"base": method()}}, "the method 'base' is always part of a comparison"),
        ({"methods": {"a": method(after="b"), "c": method()}}, r"methods.a.after='b' is none of \['a', 'c'\]"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingError, match=complaint):
        plan(**changes)


@pytest.mark.parametrize(
    ("rates", "own", "complaint"),
    [
        ([], None, "no learning rate for SFT; give learning_rates"),
        ([1e-5], [], "no learning rate for SFT; give learning_rates"),
        ([1e-5, 0.00001], None, "of SFT: two of them would share a folder"),
        ([1e-5], [0.1, 0.10000001], "of SFT: two of them would share a folder"),
    ],
)
def test_learning_rates_that_make_no_runs_are_refused(
    rates: list[float], own: list[float] | None, complaint: str
) -> None:
    with pytest.raises(SettingError, match=complaint):
        plan({"SFT": method(learning_rates=own)}, learning_rates=rates).variants("SFT")


def test_every_domain_rate_and_seed_is_a_run_in_a_folder_of_its_own() -> None:
    found = plan({"a": method(), "b": method(learning_rates=[0.5])})
    assert found.variants("a") == [
        Variant(domain, "a", rate, seed) for domain in ("a", "b") for rate in (1e-5, 5e-5) for seed in (0, 1)
    ]
    assert {variant.learning_rate for variant in found.variants("b")} == {0.5}
    base = found.variants(BASE)
    assert base == [Variant(domain, BASE, None, seed) for domain in ("a", "b") for seed in (0, 1)]
    every = [*base, *found.variants("a"), *found.variants("b")]
    assert len({each.folder(Path("runs")) for each in every}) == len(every) == 4 + 8 + 4
    assert Variant("Tool use", "SFT + x", 1e-5, 3).folder(Path("r")) == Path("r/tool-use/sft-x/rate-1e-05-seed-3")
    assert Variant("a", BASE, None, 3).folder(Path("r")) == Path("r/a/base/seed-3")
    assert [found.order(name) for name in (BASE, "a", "b")] == [0, 1, 2]


def test_all_rates_are_tried_with_the_first_seeds_and_the_best_with_the_others() -> None:
    found = plan({"a": method(), "b": method(learning_rates=[0.5])}, seeds=[4, 2, 3], rate_seeds=2)
    assert found.variants("a") == [
        Variant(domain, "a", rate, seed) for domain in ("a", "b") for rate in (1e-5, 5e-5) for seed in (4, 2)
    ]
    assert found.others("a", {"a": 5e-5, "b": None}) == [Variant("a", "a", 5e-5, 3)]
    assert len(found.variants("b")) == len(found.variants(BASE)) == 6
    assert found.others("b", {"a": 0.5, "b": 0.5}) == found.others(BASE, {"a": None, "b": None}) == []
    assert found.size() == (8 + 2) + 6 + 6
    for all_of_them in (None, 2, 3):
        found = plan({"a": method()}, rate_seeds=all_of_them)
        assert (len(found.variants("a")), found.others("a", {"a": 5e-5})) == (8, [])


def test_run_has_the_seed_the_learning_rate_and_the_start_over_what_its_parts_say() -> None:
    found = plan(prior=PriorBenchmarks(["hellaswag"]))
    with trusting("mylab"):
        run = found.run(Variant("b", "SFT", 5e-5, 7), Path("trained/export"))
    config = merged(run.parts)
    assert config["seed_everything"] == 7
    assert config["data"] == {"skill": "b", "init_args": {"shuffle_seed": 7, "data_seed": 7}}
    assert config["model"]["init_args"] == {"model": "trained/export", "learning_rate": 5e-5}
    assert (run.train, run.checkpoint, run.trust) == (True, "best", ["mylab"])
    assert run.prior == PriorBenchmarks(["hellaswag"])
    assert merged(found.run(Variant("a", "SFT", 5e-5, 7)).parts)["model"]["init_args"]["model"] == "zoo"
    last = plan({"SFT": method(checkpoint="last")}).run(Variant("a", "SFT", 5e-5, 7))
    assert last.checkpoint == "last"


def test_base_is_the_model_of_a_method_that_starts_from_no_other() -> None:
    tuned: dict[str, Any] = {"model": {"init_args": {"model": "tuned"}}}
    found = plan({"again": Method([tuned], after="SFT"), "SFT": method(), "other": Method([tuned])})
    run = found.run(Variant("a", BASE, None, 1))
    assert merged(run.parts)["model"]["init_args"] == {"model": "zoo", "learning_rate": 1}
    assert merged(run.parts)["seed_everything"] == 1
    assert run.train is False


def test_names_become_folders() -> None:
    assert [slug(name) for name in ("SFT + re-invoke", "a/../b", "  x ", "1e-05")] == [
        "sft-re-invoke",
        "a-..-b",
        "x",
        "1e-05",
    ]
