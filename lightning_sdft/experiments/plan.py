"""What a comparison consists of: methods, and the runs of each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.runs.run import PriorBenchmarks, Run, nested, read_parts
from lightning_sdft.settings import Count, NonNegative, Seed, check_ranges
from lightning_sdft.trust import trusted

__all__ = ["BASE", "Method", "Plan", "Variant"]

BASE = "base"
"""The method that trains nothing."""

LEARNING_RATE = "model.init_args.learning_rate"
START = "model.init_args.model"


@dataclass
class Method:
    """A row of a comparison.

    Args:
        parts: Configs of ``fit``, as files or inline settings; later ones override earlier ones. ``{domain}`` in a path
            or in a value is replaced by the name of the domain.
        after: The method whose trained model this one starts from, with the same domain and seed, and at the best
            learning rate of that method.
        learning_rates: Learning rates to try, if not the same as for other methods.
        checkpoint: Which weights are evaluated: the ``best`` on the validation sets of the new task, or the ``last``.
    """

    parts: list[str | dict[str, Any]]
    after: str | None = None
    learning_rates: list[NonNegative] | None = None
    checkpoint: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        check_ranges(Method, vars(self))


@dataclass(frozen=True, order=True)
class Variant:
    """One of the runs: a domain, a method, a learning rate (the base model has none) and a seed."""

    domain: str
    method: str
    learning_rate: float | None
    seed: int

    def folder(self, runs: Path) -> Path:
        """The folder of the run."""
        rate = [] if self.learning_rate is None else [f"rate-{self.learning_rate:g}"]
        return runs.joinpath(*map(slug, [self.domain, self.method]), "-".join([*rate, f"seed-{self.seed}"]))


@dataclass(frozen=True)
class Plan:
    """Everything that a comparison runs.

    Args:
        domains: Names of the domains.
        methods: Methods by name.
        seeds: Seeds with which each method is trained.
        learning_rates: Learning rates of each method that has none of its own.
        seeded: Settings that are set to the seed.
        prior: Benchmarks on which every trained model and the base model are evaluated.
        rate_seeds: Number of seeds, the first ones, with which all learning rates are tried; ``None`` for all seeds.
    """

    domains: Sequence[str]
    methods: Mapping[str, Method]
    seeds: Sequence[Seed]
    learning_rates: Sequence[NonNegative]
    seeded: Sequence[str]
    prior: PriorBenchmarks | None = None
    rate_seeds: Count | None = None

    def __post_init__(self) -> None:
        check_ranges(Plan, vars(self))
        for name, values in (("domains", self.domains), ("methods", self.methods), ("seeds", self.seeds)):
            if not values:
                raise SettingError(f"{name} is empty; there is nothing to compare")
            if len({slug(str(value)) for value in values}) < len(values):
                raise SettingError(f"{name}={list(values)}: two of them would share a folder; give them other names")
        if BASE in self.methods:
            raise SettingError(f"the method {BASE!r} is always part of a comparison; give yours another name")
        for name, method in self.methods.items():
            if method.after is not None and method.after not in self.methods:
                raise SettingError(f"methods.{name}.after={method.after!r} is none of {sorted(self.methods)}")

    def check(self) -> None:
        """Check the settings of all runs before the first one starts.

        Raises:
            SettingError: If methods wait for each other, a method has no learning rate, or a file does not exist.
        """
        after = {name: [] if each.after is None else [each.after] for name, each in self.methods.items()}
        try:
            TopologicalSorter(after).prepare()
        except CycleError as error:
            raise SettingError(f"methods wait for each other: {' after '.join(error.args[1])}") from error
        for method in (BASE, *self.methods):
            for variant in self.variants(method):
                self.run(variant)

    def order(self, method: str) -> int:
        """The position of a method in tables."""
        return [BASE, *self.methods].index(method)

    def variants(self, method: str) -> list[Variant]:
        """The first runs of a method: those that find its best learning rate, or all if they need not wait for it."""
        rates: Sequence[float | None] = [None] if method == BASE else self._rates(method)
        seeds = self.seeds[: len(self.seeds) - len(self._other_seeds(method))]
        return [Variant(domain, method, rate, seed) for domain in self.domains for rate in rates for seed in seeds]

    def others(self, method: str, best: Mapping[str, float | None]) -> list[Variant]:
        """The runs of a method with the other seeds, at its best learning rate.

        Args:
            method: The method.
            best: Its best learning rate on each domain, ``None`` if there is none.
        """
        seeds = self._other_seeds(method)
        return [Variant(domain, method, rate, seed) for domain, rate in best.items() if rate for seed in seeds]

    def size(self) -> int:
        """The number of runs."""
        methods = (BASE, *self.methods)
        return sum(len(self.variants(each)) + len(self.domains) * len(self._other_seeds(each)) for each in methods)

    def run(self, variant: Variant, start: Path | None = None) -> Run:
        """A run of the plan.

        Args:
            variant: Which one.
            start: Folder of the model that it starts from, if not the one in its configs.
        """
        if variant.method == BASE:  # its model is in the configs of a method that starts from no other
            method = next(each for each in self.methods.values() if each.after is None)
        else:
            method = self.methods[variant.method]
        parts = read_parts(method.parts, domain=variant.domain)
        parts += [nested(setting, variant.seed) for setting in self.seeded]
        if variant.learning_rate is not None:
            parts.append(nested(LEARNING_RATE, variant.learning_rate))
        if start is not None:
            parts.append(nested(START, str(start)))
        return Run(parts, variant.method != BASE, method.checkpoint, prior=self.prior, trust=trusted())

    def _other_seeds(self, method: str) -> Sequence[int]:
        """The seeds with which a method waits for its best learning rate."""
        tries = method != BASE and len(self._rates(method)) > 1
        return self.seeds[self.rate_seeds :] if tries and self.rate_seeds is not None else []

    def _rates(self, method: str) -> Sequence[float]:
        own = self.methods[method].learning_rates
        rates = self.learning_rates if own is None else own
        if not rates:
            raise SettingError(f"no learning rate for {method}; give learning_rates")
        if len({f"{rate:g}" for rate in rates}) < len(rates):
            raise SettingError(f"learning rates {list(rates)} of {method}: two of them would share a folder")
        return rates


def slug(name: str) -> str:
    """A name as the name of a folder.

    Example:
        >>> slug("SFT + re-invoke")
        'sft-re-invoke'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
