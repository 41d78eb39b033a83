"""Commands in our documents are those that the programs take: each is given to the program's own parser."""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = {"", "console", "sh", "bash", "shell"}

MODULES = {
    "zeropod": "checkpointer.cli",
    "kubectl-zeropod": "kubectl_zeropod.__main__",
    "zeropod-installer": "installer.__main__",
    "zeropod-checkpointer": "checkpointer.__main__",
    "zeropod-nri-plugin": "nri_plugin.__main__",
}
"""Our programs by name; each has a main(argv) that parses first of all."""


class Parsed(BaseException):
    """The outermost parser of a program is content; nothing of the program runs."""


def blocks(text: str) -> list[str]:
    """The lines of a document's shell blocks that are commands, continuations joined."""
    found = []
    for language, block in FENCE.findall(text):
        if language not in SHELL:
            continue
        whole = block.replace("\\\n", " ")
        prompted = re.findall(r"^(?:\$|#) (.+)$", whole, re.MULTILINE)
        plain = language != "console" and not prompted
        found += [line for line in whole.splitlines() if line.strip()] if plain else prompted
    return found


def spans(text: str) -> list[str]:
    """Code in sentences that begins with the name of a program and is no pattern of several commands.

    A command that is only named there, without its arguments, is asked for its help.
    """
    prose = FENCE.sub("", text)
    found = []
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose):
        words = span.split()
        if not re.match(r"(kubectl zeropod|zeropod|dev/\w+) ", span) or re.search(
            r"[|…]|\.\.\.", span
        ):
            continue
        named = len(words) == (3 if words[0] == "kubectl" else 2) and not words[0].startswith(
            "dev/"
        )
        found.append(" ".join([*words, "--help"] if named else words))
    return found


def commands(line: str) -> list[list[str]]:
    """The commands of a line, as words; what is behind # or far to the right is an explanation."""
    line = re.split(r"\s+#\s|\s{3,}", line.strip())[0]
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    found: list[list[str]] = [[]]
    for word in words:
        if word in {"|", "&&", "||", ";", "&"}:
            found.append([])
        else:
            found[-1].append(word)
    return [one for one in found if one]


def ours(words: list[str]) -> list[str]:
    """A command of ours, by the name of its program; nothing for others."""
    while words and (words[0] in {"sudo", "timeout"} or re.match(r"\w+=", words[0])):
        words = words[1:]
    if words[:2] == ["kubectl", "zeropod"]:
        return ["kubectl-zeropod", *words[2:]]
    if words[:2] == ["python3", "-m"] and f"{words[2]}.__main__" in MODULES.values():
        name = next(name for name, module in MODULES.items() if module == f"{words[2]}.__main__")
        return [name, *words[3:]]
    if words[:2] in (["kubectl", "exec"], ["docker", "exec"]) and "--" in words:
        return ours(words[words.index("--") + 1 :])
    if words and (words[0] in MODULES or words[0].removeprefix("./").startswith("dev/")):
        return [words[0].removeprefix("./"), *words[1:]]
    return []


CASES = sorted(
    {
        (path.relative_to(ROOT).as_posix(), shlex.join(ours(words)))
        for path in DOCUMENTS
        for text in [path.read_text(encoding="utf-8")]
        for line in [*blocks(text), *spans(text)]
        for words in commands(line)
        if ours(words)
    }
)


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """End every program as soon as it has parsed its command line."""
    depth = 0

    def after(method: Any) -> Any:
        def parse(*words: Any, **options: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                result = method(*words, **options)
            finally:
                depth -= 1
            if depth == 0:
                raise Parsed
            return result

        return parse

    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(
            argparse.ArgumentParser, name, after(getattr(argparse.ArgumentParser, name))
        )


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program parse its words; SystemExit if it does not like them."""
    name, *rest = words
    if rest[-1:] == ["--help"]:
        with pytest.raises(SystemExit) as stopped:
            importlib.import_module(MODULES[name]).main(rest)
        assert stopped.value.code == 0
        return
    if name in MODULES:
        with pytest.raises(Parsed):
            importlib.import_module(MODULES[name]).main(rest)
        return
    if name == "dev/bench":
        monkeypatch.setattr(sys, "argv", rest)
        with pytest.raises(Parsed):
            runpy.run_module(f"bench.{rest[0]}", run_name="__main__")
        return
    script = ROOT / name
    assert script.is_file(), f"there is no {name}"
    if "argparse" not in script.read_text(encoding="utf-8"):
        assert rest == [], f"{name} takes no arguments"
        return
    monkeypatch.setattr(sys, "argv", [str(script), *rest])
    with pytest.raises(Parsed):
        runpy.run_path(str(script), run_name="__main__")
    if name == "dev/node" and rest[:1] == ["pod"]:
        monkeypatch.setattr(sys, "argv", ["dev/node pod", *rest[1:]])
        with pytest.raises(Parsed):
            runpy.run_module("dev.pod", run_name="__main__")
    inner = rest[rest.index("--") + 1 :] if "--" in rest else []
    if ours(inner):
        check(ours(inner), monkeypatch)


@pytest.mark.parametrize(("document", "command"), CASES)
@pytest.mark.usefixtures("parse_only")
def test_a_documented_command_is_understood(
    document: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the program's own parser, as it is written."""
    assert document
    check(shlex.split(command), monkeypatch)


def test_there_are_commands() -> None:
    """The patterns above still find them."""
    assert {command.split()[0] for _, command in CASES} >= {
        "zeropod",
        "zeropod-installer",
        "dev/node",
        "dev/test",
    }


@pytest.mark.parametrize(
    "command",
    ["zeropod lst", "dev/node strt", "kubectl-zeropod slep web", "zeropod-installer list"],
)
@pytest.mark.usefixtures("parse_only")
def test_a_mistake_is_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above says nothing."""
    with pytest.raises(SystemExit):
        check(shlex.split(command), monkeypatch)
