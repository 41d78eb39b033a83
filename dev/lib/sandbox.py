"""Runs a program in layers of the cache, in mount and PID namespaces that end with it.

The host side writes the plan as JSON into an argument; this same file, run by `unshare`, is the
inside: it mounts, changes root and stays as PID 1 until the program has ended. What the program
writes is lost, unless it writes below a path that `binds` gave it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, NoReturn, Optional, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def command(
    layers: Sequence[Path],
    program: Sequence[str],
    *,
    binds: Optional[Mapping[str, Path]] = None,
    readonly: Optional[Mapping[str, Path]] = None,
    env: Optional[Mapping[str, str]] = None,
    cwd: str = "/",
    net: bool = False,
) -> List[str]:
    """The command line, for the host, that runs `program` with `layers` (topmost first) as root.

    With `net` it has a network of its own, in which nothing is.
    """
    # Every layer is <cache>/<name>/<key>. The mount point is never used but in a private namespace.
    base = layers[0].parents[1] / ".mount"
    base.mkdir(exist_ok=True)
    plan = {
        "base": str(base),
        "layers": [str(layer) for layer in layers],
        "program": list(program),
        "binds": {inside: str(path) for inside, path in (binds or {}).items()},
        "readonly": {inside: str(path) for inside, path in (readonly or {}).items()},
        "env": dict({"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}, **(env or {})),
        "cwd": cwd,
    }
    return ["unshare", "--mount", "--pid", *(["--net"] if net else []), "--fork", "--kill-child", "--propagation", "private",
            sys.executable, "-I", __file__, json.dumps(plan)]  # fmt: skip


def mount(*arguments: str) -> None:
    """Mounts, by the system's own program."""
    subprocess.run(["mount", *arguments], check=True, stdin=subprocess.DEVNULL)


def bind(source: str, root: str, inside: str, *, readonly: bool = False) -> None:
    """Shows a file or directory of the host at a path of the new root."""
    target = Path(root + inside)
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", source, str(target))
    if readonly:
        mount("-o", "remount,bind,ro", str(target))


def overlay(layers: Sequence[str], upper: str, work: str, target: str) -> None:
    """Mounts layers (topmost first) with a writable one above them."""
    options = "lowerdir=%s,upperdir=%s,workdir=%s" % (":".join(layers), upper, work)
    mount("-t", "overlay", "-o", options, "overlay", target)


def _enter(plan: Dict[str, Any]) -> None:
    base = plan["base"]
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", base)
    for name in ("upper", "work", "root"):
        os.mkdir(os.path.join(base, name))
    root = os.path.join(base, "root")
    overlay(plan["layers"], os.path.join(base, "upper"), os.path.join(base, "work"), root)
    mount("-t", "proc", "proc", root + "/proc")
    mount("--rbind", "/sys", root + "/sys")
    mount("--rbind", "/dev", root + "/dev")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root + "/run")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root + "/tmp")
    for inside, source in plan["binds"].items():
        bind(source, root, inside)
    for inside, source in plan["readonly"].items():
        bind(source, root, inside, readonly=True)
    os.chroot(root)
    os.chdir(plan["cwd"])


def _stay(plan: Dict[str, Any]) -> NoReturn:
    """Runs the program as a child: as PID 1 its signals would have no default action."""
    child = os.fork()
    if not child:
        try:
            os.execvpe(plan["program"][0], plan["program"], plan["env"])
        except OSError as error:
            sys.stderr.write("%s: %s\n" % (plan["program"][0], error))
            os._exit(127)
    while True:
        pid, status = os.wait()
        if pid == child:
            sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


if __name__ == "__main__":
    _plan = json.loads(sys.argv[1])
    os.environ["PATH"] = PATH
    _enter(_plan)
    _stay(_plan)
