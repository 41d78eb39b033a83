"""The cache of `dev/`: complete or absent, built once, removed when nobody needs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.lib.cache import Cache, key_of


def builder(text: str) -> Callable[[Path], None]:
    """Something to build: one file."""

    def build(target: Path) -> None:
        (target / "file").write_text(text)

    return build


def keys(root: Path, name: str) -> set[str]:
    """The artefacts that can be seen."""
    return {path.name for path in (root / name).iterdir() if not path.name.endswith(".lock")}


def test_same_inputs_are_built_once(tmp_path: Path) -> None:
    """A second request for the same inputs finds what the first one built."""
    first = Cache(tmp_path).artefact("thing", ["a"], builder("one"))
    second = Cache(tmp_path).artefact("thing", ["a"], builder("two"))
    assert first == second
    assert (second / "file").read_text() == "one"


def test_key_depends_on_content_and_order(tmp_path: Path) -> None:
    """A file counts by name and content, and two texts are not the same as one."""
    file = tmp_path / "source.c"
    file.write_text("int x;")
    before = key_of(["a", file])
    file.write_text("int y;")
    assert (
        len({before, key_of(["a", file]), key_of([file, "a"]), key_of(["ab"]), key_of(["a", "b"])})
        == 5
    )


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """A build that fails half-way is not there, and the next one starts from an empty directory."""

    def fail(target: Path) -> None:
        (target / "half").write_text("x")
        message = "no"
        raise RuntimeError(message)

    cache = Cache(tmp_path)
    with pytest.raises(RuntimeError):
        cache.artefact("thing", ["a"], fail)
    assert keys(tmp_path, "thing") == set()
    path = cache.artefact("thing", ["a"], builder("whole"))
    assert [entry.name for entry in path.iterdir()] == ["file"]


def test_killed_build_is_swept_away(tmp_path: Path) -> None:
    """What a killed builder left under its temporary name is removed by the next one."""
    stale = tmp_path / "thing" / ".new-0123"
    stale.mkdir(parents=True)
    (stale / "half").write_text("x")
    path = Cache(tmp_path).artefact("thing", ["a"], builder("whole"))
    assert keys(tmp_path, "thing") == {path.name}


def test_two_at_once_build_once(tmp_path: Path) -> None:
    """Of two runs that want the same thing one builds and the other waits for it."""
    built: list[str] = []

    def slow(target: Path) -> None:
        built.append(target.name)
        time.sleep(0.2)
        (target / "file").write_text("x")

    found: list[Path] = []
    runs = [
        threading.Thread(
            target=lambda: found.append(Cache(tmp_path).artefact("thing", ["a"], slow))
        )
        for _ in range(4)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(built) == 1
    assert len(set(found)) == 1
    assert len(found) == 4


def test_superseded_artefact_goes_once_nobody_uses_it(tmp_path: Path) -> None:
    """An old key stays as long as somebody who got it lives, and goes with the next build after that."""
    user = Cache(tmp_path)
    old = user.artefact("thing", ["old"], builder("old"))
    Cache(tmp_path).artefact("thing", ["new"], builder("new"))
    assert old.exists()
    user.close()
    newest = Cache(tmp_path).artefact("thing", ["newest"], builder("newest"))
    assert not old.exists()
    assert newest.name in keys(tmp_path, "thing")


def test_path_that_would_break_an_overlay_is_refused(tmp_path: Path) -> None:
    """A cache in a directory whose name separates overlay options is refused at once."""
    with pytest.raises(Exception, match="must not contain"):
        Cache(tmp_path / "a:b")
