"""`python3 -m installer`: prepare a node, look whether it can be, or take everything away again.

Exit codes: 0 done; 1 it could not be done; 2 wrong usage; 3 this node cannot run zeropod as it is; 4 containers sleep here
and would be lost. The last line says what is wrong and what to do.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from installer import checks, containerd, layouts, payload, remains, sleepers
from installer.cluster import CONDITION, TAINT, Cluster, ClusterError
from installer.containerd import Change, Found
from installer.departure import Departure
from installer.errors import AsleepError, InstallError, UnfitError
from installer.host import Host
from installer.journal import Journal
from installer.layouts import Layout
from installer.runtime import Runtime

PAYLOAD = Path("/opt/zeropod")
TIMEOUT = 60.0
WAIT = 120.0
AGAIN = 30.0
"""Seconds to ask an API server again that does not answer, after a restart."""

MESSAGE = Path("/dev/termination-log")
"""What Kubernetes shows of a container that has ended, in `kubectl describe pod`; not there outside of one."""

DONE, FAILED, _USAGE, UNFIT, ASLEEP = range(5)


CODES = {UnfitError: UNFIT, AsleepError: ASLEEP}


def main(argv: Sequence[str] | None = None) -> int:
    """Return an exit code, see above."""
    chosen = _parse(argv)
    # The container's log shows what was done so far even if we are killed.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a test's may be another kind
    host = Host(chosen.host_root)
    act: Callable[[Host, argparse.Namespace], int] = chosen.act
    try:
        if os.geteuid() != 0:
            raise InstallError("this needs root", "run it with sudo")
        return act(host, chosen)
    except InstallError as error:
        text = f"zeropod installer: {error}"
        print(text, file=sys.stderr)
        if MESSAGE.exists():
            MESSAGE.write_text(text + "\n", encoding="utf-8")
        return CODES.get(type(error), FAILED)


def install(host: Host, chosen: argparse.Namespace) -> int:
    """Check, ship the files, configure containerd; in a pod, say on the node how that went."""
    layout = layouts.find(host, chosen.layout)
    if chosen.plan:
        for _, argv in checks.missing(host):
            print(f"run: {' '.join(argv)}")
        for path in payload.plan(host, chosen.payload, chosen.opt):
            print(f"write: {path}")
        return _plan(layout, containerd.install(layout, _found(host, layout)))
    try:
        with host.locked(chosen.opt):
            done = _install(host, layout, chosen)
    except InstallError as error:
        unfit = isinstance(error, UnfitError)
        _tell(
            ready=False, reason="PreflightFailed" if unfit else "InstallFailed", message=str(error)
        )
        raise
    return _done(done)


def _install(host: Host, layout: Layout, chosen: argparse.Namespace) -> list[str]:
    journal = Journal(host, chosen.opt)
    done = checks.prepare(host, journal)
    checked = checks.run(host, layout, chosen.payload)
    if failed := _report(checked):
        return _stay(host, failed)
    found = _found(host, layout)
    changes = containerd.install(layout, found)
    done += payload.ship(host, chosen.payload, chosen.opt, journal)
    runtime = Runtime(host, layout, journal, chosen.restart, chosen.timeout)
    restarted = runtime.install(changes, containerd.socket(found))
    # An API server on this very node may have been restarted with it.
    patience = AGAIN if restarted else 0.0
    message = "; ".join(f"{one.name}: {one.found}" for one in checked)
    _tell(ready=True, reason="Installed", message=message, patience=patience)
    return done + restarted


def _stay(host: Host, failed: Sequence[checks.Check]) -> list[str]:
    """Change nothing on a node that is not fit. Who sleeps there is not made to wait for a better node.

    Raises:
        UnfitError: nobody does.
    """
    first = failed[0]
    told = "; ".join(f"{one.name}: {one.found}" for one in failed)
    unfit = UnfitError(f"this node cannot run zeropod yet ({told})", first.remedy)
    if not (asleep := sleepers.find(host)):
        raise unfit
    _tell(ready=False, reason="PreflightFailed", message=str(unfit))
    who = sleepers.shown(asleep)
    return [f"changed nothing: {unfit}; the daemon starts with what is there, to wake {who}"]


def _tell(*, ready: bool, reason: str, message: str, patience: float = 0.0) -> None:
    if (cluster := Cluster.of(os.environ)) is None:
        return
    try:
        cluster.ready(ready=ready, reason=reason, message=message, patience=patience)
    except ClusterError as error:
        print(f"the node's condition {CONDITION} was not written: {error}")


def uninstall(host: Host, chosen: argparse.Namespace) -> int:
    """Wake what sleeps, then take everything away; running containers run on."""
    if chosen.plan:
        return _plan_uninstall(host, chosen.opt)
    cluster = Cluster.of(os.environ, role="zeropod-uninstall")
    with host.locked(chosen.opt):
        Departure(host, cluster, chosen.wait, chosen.force).go()
        done = _uninstall(host, chosen)
    if cluster is not None:
        try:
            cluster.clear()
        except ClusterError as error:
            print(
                f"the node's condition {CONDITION} and taint {TAINT} may still be there: {error}"
            )
    return _done(done)


def _uninstall(host: Host, chosen: argparse.Namespace) -> list[str]:
    journal = Journal(host, chosen.opt)
    done = []
    for layout, changes in _everywhere(host):
        runtime = Runtime(host, layout, journal, chosen.restart, chosen.timeout)
        done += runtime.uninstall(changes)
        for one in layouts.variants(layout):
            host.remove(one.config + containerd.BACKUP)
    done += payload.remove(host, chosen.opt)
    done += remains.remove(host, journal.mounts)
    directories = [*journal.directories, chosen.opt]
    journal.close()
    for path in reversed(directories):
        host.remove_directory(path)
    return done


def _plan_uninstall(host: Host, opt: str) -> int:
    if asleep := sleepers.find(host):
        print(f"first: wake {sleepers.shown(asleep)}")
    for layout, changes in _everywhere(host):
        _plan(layout, changes)
    ours = (f"{opt}/{name}" for name in (payload.BUNDLE, payload.VERSIONS, payload.CONTAINER))
    for path in (*ours, *remains.PLACES):
        if host.exists(path):
            print(f"remove: {path}")
    return DONE


def check(host: Host, chosen: argparse.Namespace) -> int:
    """Only look."""
    layout = layouts.find(host, chosen.layout)
    found = checks.run(host, layout, chosen.payload)
    found.append(checks.nri(host, containerd.socket(_found(host, layout))))
    return UNFIT if _report(found) else DONE


def _found(host: Host, layout: Layout) -> Found:
    return Found(
        config=host.read(layout.config),
        rendered=host.read(layout.rendered) if layout.rendered else None,
        drop_in=host.read(f"{layout.drop_in}/{containerd.DROP_IN}") if layout.drop_in else None,
        version=layouts.version(host, layout),
        others=[
            host.read(path) or ""
            for path in host.listed(layout.drop_in, ".toml")
            if not path.endswith(f"/{containerd.DROP_IN}")
        ],
        kept=host.exists(layout.config + containerd.BACKUP),
    )


def _everywhere(host: Host) -> list[tuple[Layout, list[Change]]]:
    """Return what there is of ours in any layout: a node may have changed its form since the installation."""
    found = []
    for base in layouts.LAYOUTS:
        changes = [
            change
            for layout in layouts.variants(base)
            for change in containerd.uninstall(layout, _found(host, layout))
        ]
        if changes or any(host.exists(mark) for mark in base.marks):
            found.append((base, changes))
    return found


def _plan(layout: Layout, changes: Sequence[Change]) -> int:
    for change in changes:
        before, after = (
            (change.before or "").splitlines(True),
            (change.after or "").splitlines(True),
        )
        sys.stdout.writelines(difflib.unified_diff(before, after, change.path, change.path))
    if changes:
        also = ", which is all of Kubernetes on this node; pods run on" if layout.whole else ""
        print(f"then: restart one of {', '.join(layout.units)}{also}")
    else:
        print(f"nothing to change in the configuration of {layout.name}")
    return DONE


def _report(found: Sequence[checks.Check]) -> list[checks.Check]:
    for one in found:
        remedy = f" -> {one.remedy}" if one.remedy else ""
        word = "ok  " if one.ok else "FAIL" if one.needed else "warn"
        print(f"{word} {one.name:12} {one.found}{remedy}")
    return checks.failed(found)


def _done(done: Sequence[str]) -> int:
    for line in done or ["nothing to do"]:
        print(line)
    return DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("zeropod-installer", description=__doc__)
    actions = parser.add_subparsers(required=True)
    for act in (install, uninstall, check):
        one = actions.add_parser(act.__name__, help=act.__doc__)
        one.set_defaults(act=act)
        one.add_argument(
            "--host-root",
            type=Path,
            default=Path("/"),
            help="where the node's root directory is mounted",
        )
        one.add_argument(
            "--layout", default="auto",
            help=f"auto, {', '.join(layout.name for layout in layouts.LAYOUTS)}",
        )  # fmt: skip
        one.add_argument(
            "--payload", type=Path, default=PAYLOAD, help="directory with criu/ and container/"
        )
        one.add_argument(
            "--opt", default=payload.OPT, help="directory on the node for what is shipped"
        )
        one.add_argument(
            "--restart",
            default="",
            metavar="COMMAND",
            help="shell command on the node that restarts containerd, where there is no systemd",
        )
        one.add_argument(
            "--timeout", type=float, default=TIMEOUT, help="seconds for containerd to come up"
        )
        if act is not check:
            one.add_argument("--plan", action="store_true", help="print what would be done")
        if act is uninstall:
            one.add_argument(
                "--wait", type=float, default=WAIT, metavar="SECONDS",
                help="for containers to wake, and for the daemon to go",
            )  # fmt: skip
            one.add_argument(
                "--force", action="store_true", help="lose what cannot be woken, and start it anew"
            )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
