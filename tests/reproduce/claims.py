"""What the paper says, as questions to the results of the laptop model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

Record = Mapping[str, Any]
"""A row of ``results.json``."""


@dataclass(frozen=True)
class Claim:
    """A sentence, what was measured, and whether it holds."""

    sentence: str
    measured: str
    holds: bool

    def __str__(self) -> str:
        return f"| {self.sentence} | {self.measured} | {'yes' if self.holds else '**no**'} |"


def best(rows: Sequence[Record], domain: str, method: str) -> list[Record]:
    """The rows of a method at its best learning rate.

    That is by mean validation accuracy over the seeds that every rate has; the lower of equals.
    """
    return _best_rate([row for row in rows if (row["domain"], row["method"]) == (domain, method)])


def _best_rate(own: Sequence[Record]) -> list[Record]:
    assert own, "there is no such run"
    assert all(row["error"] is None for row in own), [row["error"] for row in own]
    rates = sorted({row["learning_rate"] for row in own}, key=lambda rate: rate or 0)
    tried = [{row["seed"] for row in own if row["learning_rate"] == rate} for rate in rates]
    rows = [row for row in own if row["seed"] in set.intersection(*tried)]

    def validated(rate: float) -> float:
        return mean(row["validation_accuracy"] for row in rows if row["learning_rate"] == rate)

    return [row for row in own if row["learning_rate"] == max(rates, key=validated)]


def table_5(rows: Sequence[Record]) -> list[Claim]:
    """Skill learning: what is learned and what is forgotten."""
    domains = list(dict.fromkeys(row["domain"] for row in rows))

    def new(domain: str, method: str) -> float:
        return mean(row["new_task_accuracy"] for row in best(rows, domain, method))

    def prior(domain: str, method: str) -> float:
        return mean(row["prior_average"] for row in best(rows, domain, method))

    def lost(domain: str, method: str) -> float:
        return prior(domain, "base") - prior(domain, method)

    claims = []
    for domain in domains:
        sft, dft, sdft = (new(domain, method) for method in ("SFT", "DFT", "SDFT"))
        claims.append(Claim(f"{domain}: SDFT learns at least as much as SFT", f"{sdft:.3f}, {sft:.3f}", sdft >= sft))
        claims.append(Claim(f"{domain}: SDFT learns more than DFT", f"{sdft:.3f}, {dft:.3f}", sdft > dft))
        ours, theirs = lost(domain, "SDFT"), lost(domain, "SFT")
        claims.append(Claim(f"{domain}: SDFT forgets less than SFT", f"{ours:.3f}, {theirs:.3f}", ours < theirs))
    ours, theirs = (mean(lost(domain, method) for domain in domains) for method in ("SDFT", "SFT"))
    share = f"{ours:.3f} of {theirs:.3f}, {ours / theirs:.0%}"
    claims.append(Claim("SDFT forgets at most a fifth of what SFT forgets, on average", share, ours <= 0.2 * theirs))
    between = [domain for domain in domains if new(domain, "base") < new(domain, "DFT") < new(domain, "SFT")]
    texts = [", ".join(f"{new(domain, each):.3f}" for each in ("base", "DFT", "SFT")) for domain in domains]
    enough = 3 * len(between) >= 2 * len(domains)
    claims.append(Claim("DFT learns, and less than SFT, in two thirds of the skills", "; ".join(texts), enough))
    for domain in domains:
        back = prior(domain, "SFT + re-invoke") - prior(domain, "SFT")
        text = f"{back:.3f} of {lost(domain, 'SFT'):.3f}"
        sentence = f"{domain}: re-invocation brings back at least half of what SFT forgot"
        claims.append(Claim(sentence, text, back >= 0.5 * lost(domain, "SFT")))
        after, before = new(domain, "SFT + re-invoke"), new(domain, "base")
        sentence = f"{domain}: and the new task stays above the base model"
        claims.append(Claim(sentence, f"{after:.3f}, {before:.3f}", after > before))
    return claims


def figure_3(rows: Sequence[Record]) -> list[Claim]:
    """Three skills in sequence: what is left at the end."""
    last = max(row["stage"] for row in rows)

    def left(method: str) -> tuple[float, float]:
        ends = _best_rate([row for row in rows if row["method"] == method and row["stage"] == last])
        return mean(mean(row["accuracies"].values()) for row in ends), mean(row["prior_average"] for row in ends)

    (skills, prior), (sft_skills, sft_prior) = left("SDFT"), left("SFT")
    text = f"{skills:.3f}, {prior:.3f}; SFT {sft_skills:.3f}, {sft_prior:.3f}"
    sentence = "SDFT holds at least 0.85 of all new skills and of the prior ones (SFT beside it)"
    return [Claim(sentence, text, skills >= 0.85 and prior >= 0.85)]


def figure_8(rows: Sequence[Record]) -> list[Claim]:
    """Who teaches."""
    (domain,) = {row["domain"] for row in rows}
    ends = {name: best(rows, domain, f"{name} teacher") for name in ("EMA", "frozen", "live")}
    found = {name: mean(row["new_task_accuracy"] for row in ends[name]) for name in ends}
    kept = {name: mean(row["prior_average"] for row in ends[name]) for name in ends}
    text = "; ".join(f"{name} {found[name]:.3f} / {kept[name]:.3f}" for name in found)
    worse = found["live"] < found["EMA"]
    return [Claim("a live teacher is worse than an average (new task / prior)", text, worse)]
