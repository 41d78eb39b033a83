"""What docs/operations.md says that `zeropod why` prints is what it prints: the frame of each sentence, by the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checkpointer import lifecycle, why
from checkpointer.doze import Doze, Dozes
from checkpointer.lifecycle import Life, Mode, State
from checkpointer.policy import Policy

DOCUMENT = Path(__file__).parents[3] / "docs/operations.md"

SAID = [
    line
    for block in re.findall(
        r"^```text\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    for line in block.splitlines()
    if re.match(r"default/\S+ is ", line)
]


def facts(state: State, *, reason: str = "", busy: str = "", **more: object) -> why.Facts:
    """Of a container of which everything that differs is ANY."""
    life = Life(state=state, cause="ANY", reason=reason, would_sleep=True)
    return why.Facts(
        title="ANY",
        life=life,
        age=1,
        scaledown=1,
        busy=busy,
        look_in=1,
        ports=["ANY"],
        image_bytes=10**6,
        **more,  # type: ignore[arg-type]
    )


def paragraphs() -> list[str]:
    """One of each kind."""
    never = why.Facts(**{**_fields(facts(State.RUNNING)), "scaledown": 0})
    dozes = Dozes(now=Doze(0.0, 10**6, frozenset()), sleeps=1)
    found = [
        facts(State.RUNNING, busy="ANY"),
        facts(State.RUNNING, reason="ANY"),
        facts(State.RUNNING, policy=Policy(dry_run=True), dozes=dozes),
        facts(State.ASLEEP, mode=Mode.IMAGE),
        facts(State.FROZEN, reason="ANY", mode=Mode.FROZEN),
        facts(State.WAKING, reason="ANY", mode=Mode.IMAGE),
        never,
    ]
    return [why.explain(one) for one in found] + ["ANY is not managed and never sleeps: ANY."]


def _fields(one: why.Facts) -> dict[str, object]:
    return {name: getattr(one, name) for name in why.Facts.__slots__}


def pattern(paragraph: str) -> re.Pattern[str]:
    """Any word for ANY, any number for a number, and what `annotated` may add."""
    text = re.escape(why.annotated(paragraph, (), ()))
    text = re.sub(r"\d+(?:\\\.\d+)?\\ (?:s|min|h|MB|KB)\b", r"[\\d.]+ (?:s|min|h|MB|KB)", text)
    text = text.replace("ANY", ".+?").replace(r"\(failed\ 0\ of", r"\(failed\ \d+\ of")
    return re.compile(text + r"( Its annotations: .+\.)?( Note: .+)?")


@pytest.mark.parametrize("line", SAID)
def test_a_documented_answer_is_one_that_is_given(line: str) -> None:
    """As it would be given today."""
    assert any(pattern(one).fullmatch(line) for one in paragraphs())


def test_there_are_answers() -> None:
    """The pattern above still finds them, and they are of every kind."""
    assert len(SAID) > 12
    assert all(any(pattern(one).fullmatch(line) for line in SAID) for one in paragraphs()[:3])
    assert lifecycle.MAX_WAKES == 5
