"""Installations and uninstallations that are killed at any step."""

import contextlib
import itertools
import time

import pytest
from unit.installer.fake_nodes import found, plain
from unit.installer.steps import CONFIG, MACHINE, apply, take_out

from installer import __main__ as main
from installer import containerd, journal, layouts, payload, runtime
from installer.errors import InstallError


class Killed(BaseException):
    """As SIGKILL: nobody handles it."""


def cut(node, step, act):
    """Run something that is killed before its nth change of the node; False if it has ended before."""
    numbers = itertools.count()

    def dies(function):
        def call(*arguments, **named):
            if next(numbers) == step:
                raise Killed
            return function(*arguments, **named)

        return call

    mortal = object.__new__(type(node))
    mortal.__dict__.update(node.__dict__)
    for name in ("write", "remove", "run"):
        object.__setattr__(mortal, name, dies(getattr(node, name)))
    try:
        act(mortal)
    except Killed:
        return True
    return False


@pytest.mark.parametrize("first", [[True], [False, True]], ids=["good", "bad"])
def test_an_installation_that_is_killed_at_any_step_is_completed(first, tmp_path):
    """By the next one, which leaves the node as one that was not killed; or by an uninstallation, as it was before."""
    config = "version = 2\n# mine\n"
    whole = plain(tmp_path / "whole", config=config)
    apply(whole)
    for step in itertools.count():
        node = plain(tmp_path / f"again-{step}", config=config)
        gone = plain(tmp_path / f"gone-{step}", config=config)
        for one in (node, gone):
            one.restart("containerd")
            one.comes_up[:] = first
            on = False
            with contextlib.suppress(InstallError):
                on = cut(one, step, apply)
            one.comes_up[:] = [True]
        apply(node, date=lambda: time.time() + runtime.AGAIN)
        assert node.files() == whole.files(), step
        assert node.knows == node.read(CONFIG), f"containerd was not restarted after step {step}"

        take_out(gone)
        gone.remove(CONFIG + containerd.BACKUP)
        for name in (journal.NAME, journal.FAILURE):
            gone.remove(f"{payload.OPT}/{name}")
        assert gone.files() == {CONFIG: config, **MACHINE}, step
        assert gone.knows == config
        for one in (node, gone):
            one.close()
        if not on:
            assert step > 5
            break
    whole.close()


def test_an_uninstallation_that_is_killed_at_any_step_is_completed(tmp_path):
    """By the next one, and containerd knows nothing of us then."""
    config = "version = 2\n# mine\n"

    def all_of_it(node):
        chosen = main._parse(["uninstall", "--timeout=5"])
        main._uninstall(node, chosen)

    for step in itertools.count():
        node = plain(tmp_path / f"{step}", config=config)
        node.restart("containerd")
        apply(node)
        assert "zeropod" in node.knows
        on = cut(node, step, all_of_it)
        all_of_it(node)

        assert node.files() == {CONFIG: config, **MACHINE}, step
        assert node.knows == config, f"containerd was not restarted after step {step}"
        assert not node.exists(payload.OPT), step
        node.close()
        if not on:
            assert step > 5
            break


def test_a_configuration_that_containerd_does_not_start_with_is_not_kept_by_a_killed_installation(
    tmp_path,
):
    """The next one finds nothing to change, and still goes back to what was there before the first."""
    other = plain(tmp_path, config="version = 2\n")
    other.restart("containerd")
    layout = layouts.find(other)
    changes = containerd.install(layout, found(other, layout))
    journal.Journal(other, payload.OPT).begin((c.path, c.before) for c in changes)
    for change in changes:
        other.write(change.path, change.after)
    # All files are written, and the restart was not seen to end.
    other.comes_up[:] = [False, True]
    with pytest.raises(InstallError, match="the old one is back"):
        apply(other)

    assert other.read(CONFIG) == "version = 2\n"
    assert other.answers("/run/containerd/containerd.sock")
    other.close()
