"""First half of the node's PID 1: runs in fresh namespaces, mounts the node's root, moves into it.

Run by `unshare` with the host's Python and the plan (JSON) as argument; ends by becoming
`keeper.py` under the node's own Python.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dev.lib.sandbox import PATH, bind, mount, overlay

#: name: (major, minor), what a container host needs and no more.
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
           "tty": (5, 0), "kmsg": (1, 11), "fuse": (10, 229), "net/tun": (10, 200)}  # fmt: skip

#: Mount options of cgroup v1 that say which hierarchy it is; all others are left out.
NOISE = ("rw", "ro", "nosuid", "nodev", "noexec", "relatime", "xattr", "clone_children", "nsdelegate",
         "memory_recursiveprot")  # fmt: skip


def _file_systems(root: str) -> None:
    mount("-t", "proc", "proc", root + "/proc")
    # Sysctls outside of /proc/sys/net are the whole machine's: nobody in here may set them.
    mount("--bind", root + "/proc/sys", root + "/proc/sys")
    mount("--bind", root + "/proc/sys/net", root + "/proc/sys/net")
    mount("-o", "remount,bind,ro", root + "/proc/sys")
    mount("-t", "sysfs", "sysfs", root + "/sys")
    mount("-t", "bpf", "bpf", root + "/sys/fs/bpf")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root + "/run")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root + "/tmp")
    _devices(root + "/dev")


def _devices(dev: str) -> None:
    """A /dev of our own: the host's devpts and device nodes stay out of reach."""
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", dev)
    for name in ("net", "pts", "shm", "mqueue"):
        os.mkdir(dev + "/" + name)
    os.umask(0)
    for name, (major, minor) in DEVICES.items():
        os.mknod(dev + "/" + name, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    if os.path.exists("/dev/userfaultfd"):
        # Its minor number is dynamic.
        os.mknod(dev + "/userfaultfd", 0o600 | stat.S_IFCHR, os.stat("/dev/userfaultfd").st_rdev)
    os.umask(0o022)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"),
                         ("stderr", "fd/2"), ("ptmx", "pts/ptmx")):  # fmt: skip
        os.symlink(target, dev + "/" + name)
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620", "devpts", dev + "/pts")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", dev + "/shm")
    mount("-t", "mqueue", "mqueue", dev + "/mqueue")


def _cgroups(root: str) -> None:
    """The hierarchies as our cgroup namespace shows them: our own cgroups are the roots."""
    lines = [
        line.split()[1:4] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    ]
    if ["/sys/fs/cgroup", "cgroup2"] in [line[:2] for line in lines]:
        mount("-t", "cgroup2", "cgroup2", root + "/sys/fs/cgroup")
        return
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root + "/sys/fs/cgroup")
    for where, kind, options in lines:
        if kind not in ("cgroup", "cgroup2") or not where.startswith("/sys/fs/cgroup/"):
            continue
        if os.path.exists(root + where):
            continue
        if os.path.islink(where):
            continue
        os.makedirs(root + where)
        which = [
            o for o in options.split(",") if o not in NOISE and not o.startswith("release_agent=")
        ]
        extra = ["-o", ",".join(which)] if kind == "cgroup" else []
        mount("-t", kind, *extra, kind, root + where)


def _enter(plan: Dict[str, Any]) -> None:
    state = plan["state"]
    root = state + "/root"
    overlay(plan["layers"], state + "/upper", state + "/work", root)
    _file_systems(root)
    _cgroups(root)
    # containerd's snapshots are overlays themselves: their layers must lie on a real file system.
    for name, inside in plan["folders"].items():
        bind(state + "/" + name, root, inside)
    bind(plan["repository"], root, "/src", readonly=True)
    bind(plan["images"], root, "/run/node/images", readonly=True)
    bind(plan["apps"], root, "/run/node/apps", readonly=True)
    Path(root + "/run/node/plan.json").write_text(json.dumps(plan), encoding="utf-8")
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "mnt"], check=True)
    os.chroot(".")
    os.chdir("/")
    subprocess.run(["umount", "-l", "/mnt"], check=True)
    # hostPath mounts with Bidirectional propagation need a shared root.
    mount("--make-rshared", "/")


if __name__ == "__main__":
    # The locks on the cache's layers are held by our parent; what we start must not hold them.
    os.closerange(3, 256)
    os.environ["PATH"] = PATH
    _enter(json.loads(sys.argv[1]))
    os.execv("/usr/bin/python3", ["python3", "-I", "/src/dev/lib/keeper.py"])
