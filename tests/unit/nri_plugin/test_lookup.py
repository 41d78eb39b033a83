"""Looking programs up as runc would, with its words."""

import os

import pytest

from nri_plugin import lookup


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for directory in ("bin", "sbin", "bin/folder"):
        (tmp_path / directory).mkdir()
    for name, mode in (("bin/yes", 0o755), ("sbin/other", 0o711), ("bin/data", 0o644)):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    (tmp_path / "bin/link").symlink_to("yes")
    (tmp_path / "bin/dangling").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["yes", "other", "link", "bin/yes", "./bin/yes", "sbin/../bin/link"]
)
def test_programs_are_found(tree, name):
    """By PATH, by a path from the working directory, through symlinks."""
    assert lookup.find(name, f"{tree}/bin:{tree}/sbin") == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing", "executable file not found in $PATH"),
        ("data", "executable file not found in $PATH"),
        ("folder", "executable file not found in $PATH"),
        ("dangling", "executable file not found in $PATH"),
        ("bin/data", "permission denied"),
        ("bin/folder", "is a directory"),
        ("bin/missing", "stat bin/missing: no such file or directory"),
        ("bin/yes/x", "stat bin/yes/x: not a directory"),
    ],
)
def test_what_is_not_there_is_said_in_the_runtimes_words(tree, name, problem):
    """The texts are those of runc 1.1, so that nobody has to learn new ones."""
    assert lookup.find(name, f"{tree}/bin:{tree}/sbin") == f'exec: "{name}": {problem}'


@pytest.mark.parametrize(
    ("env", "path"),
    [
        ([], None),
        (["PATHS=/x", "XPATH=/y"], None),
        (["PATH=/a", "A=b", "PATH=/b:/c"], "/b:/c"),
        (["PATH="], ""),
    ],
)
def test_the_last_path_counts(env, path):
    """As in runc's own environment after it has set each entry."""
    assert lookup.search_path(env) == path


async def test_in_doubt_the_container_starts():
    """A process that is gone, no PATH, a program below /proc: no error is invented."""
    looker = lookup.Lookup()
    env = ["PATH=/bin"]
    assert await looker.problem(2**22 + 1, ["missing"], env) == ""
    assert await looker.problem(os.getpid(), ["missing"], []) == ""
    assert await looker.problem(os.getpid(), ["/proc/self/exe"], env) == ""
    assert await looker.problem(os.getpid(), [], env) == ""
