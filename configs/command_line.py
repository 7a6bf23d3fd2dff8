"""The command line: every command takes the same configuration, as YAML keys or as flags."""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_loader, set_parsing_settings
from yaml import YAMLError

from ..common.errors import ConfigError
from ..common.version import __version__
from .renamed import current_key, current_keys, is_removed, notice
from .schema import Config
from .yaml_text import load_yaml

PRESETS = Path(__file__).parent
COMMANDS = {
    "demo": "the whole pipeline on synthetic text with a small encoder; needs no network",
    "run": "check, embed, train, adapt, evaluate and report; finished stages are skipped",
    "check": "validate a preference file and print what is in it",
    "embed": "embed every distinct sequence once into the store",
    "retry": "embed corrected rows of a quarantine file, and rows that failed before",
    "extend": "embed new data into an existing store; no sequence is embedded twice",
    "inspect": "show what a store holds or what a run produced",
    "push": "verify a store and upload it to the hub",
    "pull": "download a store from the hub and verify it",
    "verify": "read a store or run back in full; embed a sample of a store again",
    "gc": "remove vectors that no pair table uses; asks first",
    "delete": "delete the rows of a user or pair from a store, with proof; asks first",
    "copy": "copy a store to another directory and read it back",
    "train": "stage 1: fit reward heads and routers to pairs without contexts",
    "adapt": "stage 2: fit routers to a few labelled pairs with contexts",
    "evaluate": "score held-out prompts",
    "score": "score raw text with a trained run; several responses are ranked",
    "serve": "serve scores over HTTP and learn from people's feedback",
    "sweep": "fit and score many settings at once: a table, plots and the best by validation",
    "study": "run, then vary K, budget and temperature, prune heads and compare seeds",
    "theory": "check the paper's theorem numerically, with plots; needs no data",
    "compare": "compare runs on the test rows that they share, whatever else they differ in",
    "report": "write report.html from report.json",
    "export": "export a trained run as a model that other tools load, with a model card",
    "doctor": "check versions, devices, disk, locks, hub and limits of this machine",
}
# The optional positional argument of a command, and the setting that it overrides.
POSITIONALS = {
    "retry": "edited copy of the quarantine file, instead of data.corrections",
    "score": "file of JSON lines, or - for standard input",
    "compare": "two or more run directories; the first is what the others are compared with",
    "check": "preference file, instead of data.train",
    "inspect": "directory of a store or run, instead of store.dir",
    "doctor": "store directory, instead of store.dir",
    "verify": "directory of a store or run, instead of store.dir",
    "extend": "store directory, instead of store.dir",
    "gc": "store directory, instead of store.dir",
    "delete": "store directory, instead of store.dir",
    "copy": "store directory, instead of store.dir",
    "push": "store directory, instead of store.dir",
    "pull": "directory of the new store, instead of store.dir",
}
# Commands with any number of them.
SEVERAL = ("compare",)

# The parser's messages repeat their input, which may be a whole file.
MAX_MESSAGE_CHARACTERS = 500

# Short forms of flags that are typed often.
SHORT_FLAGS = {
    "--shards": "--embed.shards",
    "--engine": "--embed.engine",
    "--compare": "--report.compare",
    "--prompt": "--score.prompt",
    "--response": "--score.responses+",
    "--context": "--score.context",
    "--method": "--score.method",
    "--group": "--score.group",
    "--rebuild": "--upkeep.rebuild=true",
    "--yes": "--upkeep.yes=true",
    "--user": "--upkeep.users+",
    "--pair": "--upkeep.pairs+",
    "--to": "--upkeep.to",
}


@dataclass(frozen=True)
class Options:
    """What the command line says besides the configuration.

    Attributes:
        command: Name of the command, a key of ``COMMANDS``.
        path: Positional argument of the commands in ``POSITIONALS``, None where it is not given.
        runs: Positional arguments of compare.
        dry_run: Print the plan and do nothing.
        json: Print one JSON object instead of text.
    """

    command: str
    path: str | None
    runs: tuple[str, ...]
    dry_run: bool
    json: bool


def parse(argv: Sequence[str]) -> tuple[Options, Config]:
    """Parse the arguments behind ``micro-rm``.

    A flag overrides the same key of a ``--config`` file, whatever their order. A key that goes by
    its old name, or has been removed, is accepted with a warning on standard error. ``--help``,
    ``--version`` and ``--print_config`` print and exit.

    Returns:
        The options and the validated configuration.

    Raises:
        ConfigError: A key is unknown (the message suggests the closest one), a value has the wrong
            type or is out of range, or a file is missing.
    """
    outdated: set[str] = set()
    _configure_jsonargparse(outdated)
    for word in argv:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise ConfigError(f"{word!a}: expected an argument in UTF-8, found other bytes")
    short = SHORT_FLAGS | ({"--to": "--export.to"} if "export" in argv[:1] else {})
    words = _config_first(_current_flags(argv, short, outdated))
    parser = _build_parser(next(iter(words), None))
    try:
        parsed = parser.parse_args(words)
        command = parsed.command
        chosen: Namespace = parser.instantiate(parsed)[command]
    except argparse.ArgumentError as error:
        raise ConfigError(_explain(str(error))) from error
    except (TypeError, AttributeError, ImportError, ValueError) as error:
        raise ConfigError(
            f"the configuration cannot be read ({error}); every section is a mapping of keys to "
            "values, see configs/demo.yaml"
        ) from error
    options = Options(
        command=command,
        path=None if command in SEVERAL else getattr(chosen, "place", None),
        runs=tuple(chosen.place or ()) if command in SEVERAL else (),
        dry_run=chosen.dry_run,
        json=chosen.json,
    )
    for key in sorted(outdated):
        print(f"micro-rm: {notice(key)}", file=sys.stderr)
    return options, Config(**{field.name: chosen[field.name] for field in fields(Config)})


def _configure_jsonargparse(outdated: set[str]) -> None:
    """Let jsonargparse read values as plain data, and collect the old names of keys in YAML.

    By default jsonargparse imports and instantiates any class that a value names, so a
    configuration file could run code.
    """
    set_parsing_settings(
        docstring_parse_attribute_docstrings=False,
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*"],
        import_path_allowlist=["micro_rm.configs"],
    )

    def load(text: str) -> Any:
        return current_keys(load_yaml(text), outdated)

    set_loader("yaml", load, exceptions=(YAMLError,))


def _build_parser(wanted: str | None) -> ArgumentParser:
    """Build the parser of all commands; only the ``wanted`` one gets its keys.

    Adding every key of the configuration to a parser is slow, so the other commands are listed
    with their summaries alone.
    """
    parser = ArgumentParser(
        prog="micro-rm",
        version=__version__,
        description="Mixture reward heads and context-aware routing from cached features.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command", required=True)
    for name, summary in COMMANDS.items():
        if name != wanted:
            commands.add_subcommand(name, ArgumentParser(exit_on_error=False), help=summary)
            continue
        preset: list[str | os.PathLike[str]] = [PRESETS / "demo.yaml"] if name == "demo" else []
        command = ArgumentParser(
            description=f"{summary[0].upper()}{summary[1:]}.",
            default_config_files=preset,
            exit_on_error=False,
            allow_abbrev=False,
        )
        if name in POSITIONALS:
            # Its key stays "place": --print_config writes it into configuration files.
            nargs, metavar = ("*", "RUN") if name in SEVERAL else ("?", "PATH")
            command.add_argument(
                "place", nargs=nargs, default=None, metavar=metavar, help=POSITIONALS[name]
            )
        command.add_argument("--config", action="config", help="YAML file with any of the keys")
        command.add_argument("--dry_run", action="store_true", help="print the plan, do nothing")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.add_class_arguments(Config)
        commands.add_subcommand(name, command, help=summary)
    return parser


def _current_flags(argv: Sequence[str], short: Mapping[str, str], outdated: set[str]) -> list[str]:
    """Replace short flags and old names of keys by the flags they stand for; drop removed keys."""
    flags = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        flag = short.get(name, name)
        is_flag = flag.startswith("--")
        if is_flag and (is_removed(flag) or current_key(flag) != flag):
            outdated.add(flag.removeprefix("--"))
        if not is_flag:
            flags.append(word)
        elif not is_removed(flag):
            flags.append(current_key(flag) + equals + value)
        elif not equals:
            next(words, None)  # its value is a word of its own
    return flags


def _config_first(argv: Sequence[str]) -> list[str]:
    """Move every ``--config FILE`` to just behind the command.

    jsonargparse applies arguments in their order, so flags now override configuration files.
    """
    files, rest = [], []
    words = iter(argv)
    for word in words:
        if word == "--config":
            files += [word, *itertools.islice(words, 1)]
        elif word.startswith("--config="):
            files.append(word)
        else:
            rest.append(word)
    return [*rest[:1], *files, *rest[1:]]


def _known_keys(config: type = Config, prefix: str = "") -> list[str]:
    """Dotted keys of a configuration dataclass, sections included."""
    keys = []
    for item in fields(config):
        keys.append(prefix + item.name)
        inner = item.default_factory
        if isinstance(inner, type) and is_dataclass(inner):
            keys += _known_keys(inner, f"{prefix}{item.name}.")
    return keys


def _explain(message: str) -> str:
    """The parser's message in one line, with the closest known key if it names an unknown one."""
    line = " ".join(message.split())
    if len(line) > MAX_MESSAGE_CHARACTERS:
        line = f"{line[:MAX_MESSAGE_CHARACTERS]} ..."
    keys = _known_keys()
    for word in line.replace("'", " ").replace('"', " ").split():
        word = word.lstrip("-").split("=")[0].strip(".,:;")
        # jsonargparse does not mark the key in its messages: take any word that looks like one.
        if word not in keys and ("." in word or "_" in word or "not" in line):
            close = difflib.get_close_matches(word, keys, n=1, cutoff=0.75)
            if close:
                return f"{line}; did you mean {close[0]}?"
    return f"{line}; micro-rm COMMAND --help lists every key"
