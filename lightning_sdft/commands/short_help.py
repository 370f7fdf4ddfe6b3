"""The help that fits a screen, written without importing torch; ``--help all`` shows what the parsers know."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from lightning_sdft.commands.signatures import Described, Option, classes, commands, described

__all__ = ["ASKED", "RUNS", "short_help"]

ASKED = ("-h", "--help")

RUNS = {
    "fit": "Train a model on demonstrations.",
    "validate": "Evaluate a model on the validation sets.",
    "test": "Evaluate a model on the test sets.",
    "predict": "Write a model's answers to the test questions to a file.",
    "preflight": "Ask before training whether there is something to learn, and at which temperature.",
    "memory": "Estimate the memory of a run: no weights, no training, no GPU.",
    "inspect": "Show what student and teacher answer, and where they disagree token by token.",
}
"""The commands that take a model, data and a trainer."""

OWN = {
    "preflight": ("lightning_sdft.commands.preflight", "PreflightTrainer", "preflight"),
    "memory": ("lightning_sdft.commands.memory", "MemoryTrainer", "memory"),
    "inspect": ("lightning_sdft.commands.inspect", "InspectTrainer", "inspect"),
}
"""Where the further options of such a command are."""

GROUPS = {
    "A run": ("init", "preflight", "memory", "fit", "validate", "test", "predict", "inspect", "export"),
    "Experiments": ("compare", "sweep", "continual", "remake", "prior"),
    "Data": ("demonstrate", "questions", "judge"),
    "Else": ("configs",),
}
"""The commands in the order in which one meets them; those that are in no group come last."""

SHOWN = (
    "max_epochs",
    "max_steps",
    "accelerator",
    "devices",
    "precision",
    "strategy",
    "val_check_interval",
    "limit_val_batches",
    "logger",
    "callbacks",
)
"""The settings of Lightning's trainer that are shown."""

INDENT = 28


def short_help(arguments: Sequence[str]) -> str | None:
    """The help that a command line asks for; nothing if it asks for none, or for all.

    Args:
        arguments: What was typed behind ``lightning-sdft``.
    """
    place = next((index for index, each in enumerate(arguments) if each in ASKED), None)
    if place is None or list(arguments[place + 1 : place + 2]) == ["all"]:
        return None
    command = next((each for each in arguments[:1] if each not in ASKED), None)
    if command is None:
        return "\n".join(_overview())
    if command in RUNS:
        return "\n".join(_run(command))
    modules = commands()
    if command not in modules:
        return None
    return "\n".join(_command(command, described(modules[command], command)))


def _overview() -> Iterator[str]:
    yield "lightning-sdft COMMAND [options]"
    yield ""
    yield from _wrapped("Fine-tune language models on demonstrations without making them forget.", "")
    modules = commands()
    summaries = {**RUNS, **{name: described(module, name).summary for name, module in modules.items()}}
    listed = [name for names in GROUPS.values() for name in names]
    groups = {**GROUPS, "Else": (*GROUPS["Else"], *(name for name in summaries if name not in listed))}
    for title, names in groups.items():
        yield f"\n{title}:"
        for name in names:
            if name in summaries:
                yield from _entry(name, _sentence(summaries[name]))
    yield ""
    yield from _wrapped(
        "`lightning-sdft COMMAND --help` shows the options of a command, `--help all` all that there are. "
        "`--trust mylab` lets configs name classes of your own package mylab; `--debug` shows where an error comes "
        "from.",
        "",
    )


def _command(command: str, known: Described) -> Iterator[str]:
    yield f"lightning-sdft {command} [options]"
    yield ""
    yield from _wrapped(known.summary, "")
    yield ""
    yield from _entry("--config FILE", "YAML file with these options.")
    for option in known.options:
        yield from _option(option)
    yield from _more(command)


def _run(command: str) -> Iterator[str]:
    yield f"lightning-sdft {command} --config NAME [options]"
    yield ""
    yield from _wrapped(RUNS[command], "")
    yield ""
    yield from _entry(
        "--config NAME", "A config by path or by name (see `lightning-sdft configs`); of several, the last wins."
    )
    yield from _entry("--model CLASS", f"How to train: {', '.join(classes('modules', 'Module'))}.")
    (name, *rest) = described("lightning_sdft.modules.sdft", "SDFTModule").options
    settings = ", ".join(each.name for each in (name, *rest))
    yield from _entry("--model.SETTING VALUE", f"A setting of it. SDFTModule has {settings}.")
    yield from _entry("--data CLASS", f"On what: {', '.join(classes('data', 'DataModule'))}.")
    known = described("lightning_sdft.data.json_rows", "JsonDataModule").options
    rows = ", ".join(each.name for each in known if each.name != "kwargs")
    yield from _entry("--data.SETTING VALUE", f"A setting of it. JsonDataModule has {rows}.")
    yield from _entry("--trainer.SETTING VALUE", f"A setting of Lightning's trainer, such as {', '.join(SHOWN)}.")
    if command not in OWN:
        text = (
            "A checkpoint to evaluate."
            if command != "fit"
            else "A checkpoint to go on from; `last` is the run's newest."
        )
        yield from _entry("--ckpt_path FILE", text)
    if command in OWN:
        for option in described(*OWN[command]).options:
            if option.name not in ("model", "datamodule"):
                yield from _option(option)
    yield from _entry("--print_config", "Print the whole config and end.")
    yield ""
    yield from _wrapped("`--model.help CLASS` and `--data.help CLASS` explain all settings of a class.", "")
    yield from _more(command)


def _more(command: str) -> Iterator[str]:
    yield ""
    yield from _wrapped(f"All that there is: lightning-sdft {command} --help all", "")


def _option(option: Option) -> Iterator[str]:
    needed = option.default is None
    shown = option.default not in (None, "None", "''")
    default = " (needed)" if needed else f" ({_plain(option.default or '')})" if shown else ""
    yield from _entry(f"--{option.name} {_placeholder(option)}", f"{_sentence(option.text).rstrip('.')}{default}.")


def _placeholder(option: Option) -> str:
    kind = option.kind.replace(" | None", "")
    if kind.startswith("Literal["):
        return "|".join(re.findall(r"'([^']*)'", kind))
    known = {"str": "TEXT", "int": "N", "float": "X", "bool": "true|false", "Count": "N", "Natural": "N", "Seed": "N"}
    return known.get(kind, "VALUE")


def _plain(value: str) -> str:
    return value.strip("'").replace("True", "true").replace("False", "false")


def _sentence(text: str) -> str:
    """The first sentence, without the markup of docstrings."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text).replace("``", "")
    return re.split(r"(?<!Fig)(?<=[.;])\s", text)[0].rstrip(".;") + "."


def _entry(name: str, text: str) -> Iterator[str]:
    head = f"  {name}"
    if len(head) > INDENT - 2:
        yield head
        head = ""
    lines = textwrap.wrap(text, _width() - INDENT) or [""]
    yield f"{head:{INDENT}}{lines[0]}".rstrip()
    yield from (" " * INDENT + line for line in lines[1:])


def _wrapped(text: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(_markup(text), _width(), initial_indent=indent, subsequent_indent=indent)


def _markup(text: str) -> str:
    return text.replace("``", "`")


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)
