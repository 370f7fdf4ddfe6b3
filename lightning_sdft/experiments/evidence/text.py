"""The evidence of an experiment as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from lightning_sdft.experiments.evidence.contrast import Contrast
from lightning_sdft.experiments.evidence.evidence import Evidence
from lightning_sdft.experiments.evidence.result import KEPT, NEW, benchmarks
from lightning_sdft.experiments.plan import BASE

__all__ = ["evidence_text"]

NAMES = {NEW: "new task", KEPT: "prior, all"}

COLUMNS = ("measure", "accuracy", "other", "difference", "over seeds", "bootstrap", "agree", "p", "Holm", "words")

LEGEND = (
    "Percent, over the seeds that both have. *over seeds*: half of Student's 95% interval of the difference; "
    "*bootstrap*: its 95% interval by drawing seeds and questions in pairs; *agree*: seeds with the sign of the mean; "
    "*p*: McNemar's exact test over the questions that only one of the two has right; *Holm*: p corrected for the "
    "number of tests. `better` and `worse` need p < 0.05 after correction, one sign in all seeds, and an interval over "
    "seeds without 0."
)

STAGES = (
    "Each stage stands for itself: its skill is the new task, and earlier skills and prior tasks are what is kept. A "
    "method begins a stage with what the stage before has left."
)


def evidence_text(evidence: Evidence, title: str = "") -> str:
    """The endpoint, what each method learned and kept, what is kept at equal accuracy, ceilings, and every test.

    Args:
        evidence: The evidence.
        title: Title of the experiment.
    """
    domains = evidence.questions.domains
    lines = [f"# Evidence: {title}" if title else "# Evidence", "", LEGEND, "", *_endpoint(evidence)]
    for domain in domains:
        lines += _learned_and_kept(evidence, domain)
    lines += _matched(evidence) + _ceilings(evidence)
    if evidence.tests:
        lines += [f"## The other {len(evidence.tests)} tests", ""]
    for pair in dict.fromkeys((each.domain, each.method, each.against) for each in evidence.tests):
        tests = [each for each in evidence.tests if (each.domain, each.method, each.against) == pair]
        lines += [f"{pair[1]} against {pair[2]}, {pair[0]}:", "", *_table(tests), ""]
    if missing := evidence.without_verdicts:
        lines += [
            f"No verdicts on single questions were kept of {len(missing)} runs, which another version performed: "
            "there are averages, and no tests.",
            "",
        ]
    return "\n".join(lines)


def _endpoint(evidence: Evidence) -> list[str]:
    endpoint, found = evidence.questions.endpoint, evidence.endpoint
    source = "named in the config" if evidence.named.get("in_config") else "by default, since the config names none"
    when: dict[object, str] = {
        True: "before any run had ended",
        False: "when results were there already: take it as one of the others",
    }
    said = when.get(evidence.named.get("before_results", ""), "it is not known when")
    lines = ["## The endpoint", "", f"{endpoint}: {source}, {said}.", ""]
    if found is None:
        return [*lines, "No seed has results of both.", ""]
    lines += [f"**{found.method} against {found.against}: {found.words}**" if found.p is not None else found.words]
    lines[-1] += f": {_percent(found.accuracy)} against {_percent(found.other)}."
    lines += ["", *_table([found]), ""]
    if found.p is None:
        return lines
    lines += [
        "| seed | difference | only the method is right | only the other | of questions | p |",
        "|---|---|---|---|---|---|",
    ]
    for each in found.seeds:
        pairs = each.pairs
        if pairs is not None and each.p is not None:
            counts = f"{pairs.gained} | {pairs.lost} | {pairs.questions}"
            lines.append(f"| {each.seed} | {_signed(each.difference)} | {counts} | {_p(each.p)} |")
    return [*lines, ""]


def _learned_and_kept(evidence: Evidence, domain: str) -> list[str]:
    """Accuracies with the start beside them, for the new task and for each set of questions."""
    here = [each for each in evidence.results if each.domain == domain]
    measures = [name for name in (NEW, *benchmarks(here), KEPT) if any(name in each.accuracies for each in here)]
    methods = evidence.questions.methods
    lines = [f"## {domain}: what was learned and what was kept", ""]
    lines += ["Accuracy, change from the base model, and what may be said of the change.", ""]
    lines += [f"| | base | {' | '.join(methods)} |", f"|---|---|{'---|' * len(methods)}"]
    for measure in measures:
        values = [each.accuracies[measure] for each in here if each.method == BASE and measure in each.accuracies]
        cells = [_percent(mean(values)) if values else "-"]
        cells += [_cell(evidence.found(domain, method, BASE, measure)) for method in methods]
        lines.append(f"| {NAMES.get(measure, measure)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(found: Contrast | None) -> str:
    return (
        "-"
        if found is None
        else f"{_percent(found.accuracy)}, {_signed(found.difference)} ({found.words.partition(' with ')[0]})"
    )


def _matched(evidence: Evidence) -> list[str]:
    if not evidence.matched:
        return []
    lines = ["## What is kept at equal accuracy on the new task", ""]
    lines += [
        "The accuracy is the lower of the two that both methods end with, on the validation split; what is kept there "
        "is read from the validations of each run, between two of them along a line. No claims are made of it.",
        *(["", STAGES] if any(each.domain not in evidence.questions.domains for each in evidence.matched) else []),
        "",
        "| domain | methods | new task | kept | the first | the second | difference | over seeds | agree |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in evidence.matched:
        difference = each.kept - each.other
        agree = sum(one * difference > 0 for one in each.differences)
        cells = [
            each.domain,
            f"{each.method}, {each.against}",
            _percent(each.level),
            NAMES.get(each.measure, each.measure),
        ]
        cells += [_percent(each.kept), _percent(each.other), _signed(difference), _half(each.half_width)]
        lines.append(f"| {' | '.join([*cells, f'{agree} of {len(each.differences)}'])} |")
    return [*lines, ""]


def _ceilings(evidence: Evidence) -> list[str]:
    if not evidence.ceilings:
        return []
    lines = [
        "## Ceilings",
        "",
        "How much of the way from the base model to a ceiling a method has gone on the new task.",
        "",
    ]
    lines += ["| domain | method | ceiling | base | method | ceiling | share |", "|---|---|---|---|---|---|---|"]
    for each in evidence.ceilings:
        share = "the ceiling is not above the base" if each.share is None else f"{100 * each.share:.0f}%"
        cells = [each.domain, each.method, each.ceiling, *map(_percent, (each.base, each.accuracy, each.top)), share]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _table(tests: Sequence[Contrast]) -> list[str]:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for each in tests:
        bootstrap = "-" if each.bootstrap is None else f"{_signed(each.bootstrap[0])} to {_signed(each.bootstrap[1])}"
        p_values = ["-" if value is None else _p(value) for value in (each.p, each.corrected)]
        cells = [NAMES.get(each.measure, each.measure), _percent(each.accuracy), _percent(each.other)]
        cells += [_signed(each.difference), _half(each.half_width), bootstrap, f"{each.agreeing} of {len(each.seeds)}"]
        lines.append(f"| {' | '.join([*cells, *p_values, each.words])} |")
    return lines


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}"


def _half(value: float | None) -> str:
    return "-" if value is None else f"± {100 * value:.1f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
