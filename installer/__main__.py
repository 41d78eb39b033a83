"""`python3 -m installer`: prepare a node, look whether it can be, or take everything away again."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from installer import checks, containerd, layouts, payload, runtime
from installer.containerd import Change, Found
from installer.errors import InstallError
from installer.host import Host
from installer.layouts import Layout

PAYLOAD = Path("/opt/zeropod")
TIMEOUT = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when it is done, 1 when it cannot be: the text says what to do."""
    chosen = _parse(argv)
    host = Host(chosen.host_root)
    try:
        if os.geteuid() != 0:
            raise InstallError("this needs root", "run it with sudo")
        layout = layouts.find(host, chosen.layout)
        act: Callable[[Host, Layout, argparse.Namespace], int] = chosen.act
        return act(host, layout, chosen)
    except InstallError as error:
        print(f"zeropod installer: {error}", file=sys.stderr)
        return 1


def install(host: Host, layout: Layout, chosen: argparse.Namespace) -> int:
    """Check, ship the files, configure containerd."""
    changes = containerd.install(layout, _found(host, layout))
    if chosen.plan:
        return _plan(layout, changes)
    if failed := _report(checks.run(host, layout, chosen.payload)):
        raise InstallError(f"this node cannot run zeropod yet ({', '.join(failed)})", "see above")
    done = payload.ship(host, chosen.payload)
    done += runtime.apply(host, layout, changes, timeout=chosen.timeout)
    return _done(done)


def uninstall(host: Host, layout: Layout, chosen: argparse.Namespace) -> int:
    """Take configuration and files away; running containers run on. Wake what sleeps before."""
    changes = containerd.uninstall(layout, _found(host, layout))
    if chosen.plan:
        return _plan(layout, changes)
    done = runtime.apply(host, layout, changes, timeout=chosen.timeout, nri=False, backup=False)
    host.remove(layout.config + runtime.BACKUP)
    return _done(done + payload.remove(host))


def check(host: Host, layout: Layout, chosen: argparse.Namespace) -> int:
    """Only look."""
    return 1 if _report(checks.run(host, layout, chosen.payload)) else 0


def _found(host: Host, layout: Layout) -> Found:
    return Found(
        config=host.read(layout.config),
        rendered=host.read(layout.rendered) if layout.rendered else None,
        drop_in=host.read(f"{layout.drop_in}/{containerd.DROP_IN}") if layout.drop_in else None,
        version=layouts.version(host, layout),
    )


def _plan(layout: Layout, changes: Sequence[Change]) -> int:
    for change in changes:
        before, after = (
            (change.before or "").splitlines(True),
            (change.after or "").splitlines(True),
        )
        sys.stdout.writelines(difflib.unified_diff(before, after, change.path, change.path))
    if changes:
        also = ", which restarts its pods too" if layout.restarts_pods else ""
        print(f"then: restart one of {', '.join(layout.units)}{also}")
    else:
        print("nothing to change in containerd's configuration")
    return 0


def _report(found: Sequence[checks.Check]) -> list[str]:
    for one in found:
        remedy = f" -> {one.remedy}" if one.remedy else ""
        print(f"{'ok  ' if one.ok else 'FAIL'} {one.name:12} {one.found}{remedy}")
    return [one.name for one in found if not one.ok]


def _done(done: Sequence[str]) -> int:
    for line in done or ["nothing to do"]:
        print(line)
    return 0


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
            "--timeout", type=float, default=TIMEOUT, help="seconds for containerd to come up"
        )
        if act is not check:
            one.add_argument("--plan", action="store_true", help="print what would be done")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
