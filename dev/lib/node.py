"""A node, seen from the host: started, entered, looked at, ended.

All there is of a node is one process tree in namespaces of its own, its cgroups, and a state
directory `<cache>/nodes/<name>`. Its PID 1 killed, everything but cgroups and directory is gone.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Sequence

from dev import patience
from dev.lib import cgroups, code, host, process, sandbox
from dev.lib.cache import Cache
from dev.lib.environment import Environment
from dev.lib.errors import DevError

log = logging.getLogger("dev")

#: Seconds after which a node that is not up has failed; one with Kubernetes.
PATIENCE, KUBERNETES_PATIENCE = 90.0, 240.0

#: Seconds after which plugin and daemon have to serve again: a planned stop may finish what was begun, and then BPF
#: programs are compiled.
RELOAD_PATIENCE = 70.0

#: What of its state is where in the node: containerd's snapshots are overlays themselves, whose layers must lie on a
#: real file system, and so must what pods are given.
FOLDERS = {"containerd": "/var/lib/containerd", "zeropod": "/var/lib/zeropod", "log": "/var/log"}
KUBERNETES_FOLDERS = {"etcd": "/var/lib/etcd", "kubelet": "/var/lib/kubelet"}

#: Where kubectl finds the cluster.
KUBECTL = ("KUBECONFIG=/etc/kubernetes/admin.conf",)

#: Puts itself into the cgroups given before `--` and becomes the command after it.
JOIN = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 70; shift; done; shift; exec "$@"'


class Node:
    """One node by its name; there need not be one."""

    def __init__(self, cache: Cache, name: str = "zeropod") -> None:
        # A cgroup, a directory and a host name are made of it.
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
            raise DevError("a node's name is made of a-z, 0-9 and '-': %r is not" % name)
        self.cache = cache
        self.name = name
        self.state = cache.root / "nodes" / name

    # --- what is there -------------------------------------------------------

    def facts(self) -> Optional[Dict[str, Any]]:
        """What was written down when it was started; None if there is no node of this name."""
        try:
            found = json.loads((self.state / "node.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return dict(found)

    def pid(self) -> Optional[int]:
        """The host's pid of its PID 1, if it is alive."""
        facts = self.facts()
        if not facts or not facts.get("pid"):
            return None
        return facts["pid"] if _start_time(facts["pid"]) == facts["started"] else None

    def ready(self) -> bool:
        """Whether its start went through."""
        return bool(self.pid()) and (self.state / "log/node/ready").exists()

    def condition(self) -> str:
        """How it is, in a word for people."""
        if self.ready():
            return "running"
        if self.pid():
            return "starting"
        return "kept" if (self.facts() or {}).get("kept") else "dead"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one program at a time starts, changes or ends this node."""
        self.state.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.state.parent / (".%s.lock" % self.name), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    # --- start and stop ------------------------------------------------------

    def start(
        self,
        environment: Environment,
        *,
        variant: str = "debian",
        zeropod: bool = True,
        kubernetes: bool = False,
        own: bool = False,
    ) -> None:
        """Starts it and waits until pods can be run; a running one of the same kind is left as it is.

        Args:
            environment: what it consists of.
            variant: which containerd.
            zeropod: whether plugin and daemon run on it as services.
            kubernetes: whether it is a cluster of one, on which nothing of ours is but what is installed there.
            own: whether it must not run yet, because the caller ends it.

        Raises:
            DevError: It runs already as another kind, or for somebody else, or did not come up.
        """
        kind = {"variant": variant, "zeropod": zeropod, "kubernetes": kubernetes}
        with self.locked():
            facts = self.facts() or {}
            same = all(facts.get(key, False) == value for key, value in kind.items())
            if self.ready():
                if own:
                    raise DevError("node %s runs: for another %s, or for one that was killed. Then: dev/node stop --name %s" % (
                        self.name, sys.argv[0], self.name))  # fmt: skip
                if not same:
                    raise DevError("node %s runs as %s. Run: dev/node stop --name %s" % (
                        self.name, described(facts), self.name))  # fmt: skip
                return
            kept = bool(same and facts.get("kept"))
            self._destroy(keep=kept)
            try:
                self._launch(environment, kind, kept=kept)
                self._await_ready(KUBERNETES_PATIENCE if kubernetes else PATIENCE)
            except BaseException:
                self.report()
                self._destroy()
                raise

    def notes(self) -> List[str]:
        """What the checkout does not have, so that the node runs without it."""
        return (self.state / "log/node/ready").read_text(encoding="utf-8").splitlines()

    def stop(self, *, keep: bool = False) -> bool:
        """Ends it and removes all that was of it; False if there was none.

        Args:
            keep: leave what is on its disks, with which the next start goes on: together they are a reboot.
        """
        with self.locked():
            there = self.facts() is not None or self.state.exists()
            self._destroy(keep=keep and self.ready())
        return there

    def _launch(self, environment: Environment, kind: Dict[str, Any], *, kept: bool) -> None:
        system = process.run(["stat", "-f", "-c", "%T", self.state.parent]).strip()
        if system == "overlayfs":
            raise DevError(
                "%s is on an overlay file system, which cannot hold another one's layers. Run: "
                "export ZEROPOD_DEV_CACHE=/a/directory/on/a/disk" % self.cache.root
            )
        folders = dict(FOLDERS, **(KUBERNETES_FOLDERS if kind["kubernetes"] else {}))
        for name in ("upper", "work", "root", "log/node", *folders):
            (self.state / name).mkdir(parents=True, exist_ok=kept or name == "log")
        if kind["kubernetes"]:
            layers = environment.cluster_layers(kind["variant"])
        else:
            layers = environment.node_layers(kind["variant"])
            code.install(self.state / "upper", environment.project)
            code.install_earlier(self.state / "upper")
        groups = cgroups.plan(self.name)
        plan = {
            **kind,
            "name": self.name,
            "kept": kept,
            "folders": folders,
            "state": str(self.state),
            "layers": [str(layer) for layer in layers],
            "images": str(environment.images()),
            "apps": str(environment.app_images()),
            "repository": str(host.REPOSITORY),
        }
        facts = {**kind, "pid": 0, "kept": False, "cgroups": [str(g) for g in groups]}
        self._note(facts)
        facts["added"] = cgroups.create(groups)
        self._note(facts)
        unshare = ["unshare", "-mnpuiC", "--propagation", "private", "--fork", "--kill-child",
                   sys.executable, "-I", str(Path(__file__).with_name("boot.py")), json.dumps(plan)]  # fmt: skip
        # `unshare` stays as the parent and holds the locks on the layers as long as the node lives.
        outer = process.spawn(
            ["sh", "-c", JOIN, "sh", *groups, "--", *unshare],
            output=self.state / "log/node/init.log",
            pass_fds=list(self.cache.locks.values()),
        )
        inner = _only_child(outer.pid)
        facts.update(pid=inner, started=_start_time(inner))
        self._note(facts)
        for group in groups:
            (group / cgroups.LEAF / "cgroup.procs").write_text(str(outer.pid), encoding="ascii")
        # It outlives us; its status is nobody's business.
        outer.returncode = 0

    def _note(self, facts: Dict[str, Any]) -> None:
        fresh = self.state / "node.json.new"
        fresh.write_text(json.dumps(facts), encoding="utf-8")
        fresh.rename(self.state / "node.json")

    def _await_ready(self, fast: float) -> None:
        failed = self.state / "log/node/failed"
        try:
            patience.until(lambda: self.ready() or self.pid() is None or failed.exists(), fast)
        except TimeoutError as error:
            raise DevError("node %s is not up: %s" % (self.name, error)) from error
        if failed.exists():
            raise DevError("node %s: %s" % (self.name, failed.read_text(encoding="utf-8")))
        if not self.ready():
            raise DevError("node %s ended while it started" % self.name)

    def report(self) -> None:
        """Shows what the logs said last, before they are removed."""
        for path in sorted((self.state / "log/node").glob("*.log")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            # containerd tells of every step of every container.
            telling = [line for line in lines if "level=info" not in line][-15:]
            log.error("--- %s\n%s", path.name, "\n".join(telling))

    def _destroy(self, *, keep: bool = False) -> None:
        facts = self.facts() or {}
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
        groups = [Path(path) for path in facts.get("cgroups", [])]
        left = cgroups.remove(groups)
        cgroups.restore(groups, facts.get("added", []))
        if left:
            raise DevError(
                "could not remove the cgroups %s" % ", ".join(str(path) for path in left)
            )
        if keep:
            for name in ("ready", "failed"):
                (self.state / "log/node" / name).unlink(missing_ok=True)
            self._note(dict(facts, pid=0, kept=True))
        elif self.state.exists():
            process.run(["rm", "-rf", "--one-file-system", self.state])

    # --- use -----------------------------------------------------------------

    def entry(self, program: Sequence[str], *, cwd: str = "/", slower: float = 1.0) -> List[str]:
        """The host's command line that runs a program in the node.

        Args:
            program: its words.
            cwd: where.
            slower: how many times slower the node is than alone on this machine.

        Raises:
            DevError: The node does not run.
        """
        pid, facts = self.pid(), self.facts()
        if not pid or not facts:
            raise DevError(
                "node %s is not running. Run: dev/node start --name %s" % (self.name, self.name)
            )
        enter = ["nsenter", "-t", str(pid), "-m", "-n", "-p", "-u", "-i", "-C", "-r", "--",
                 "env", "-i", "-C", cwd, "PATH=" + sandbox.PATH, "HOME=/root", "LANG=C.UTF-8",
                 "TERM=" + os.environ.get("TERM", "dumb"), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1",
                 "%s=%g" % (patience.VARIABLE, slower * patience.FACTOR), *(KUBECTL if facts.get("kubernetes") else ()),
                 *program]  # fmt: skip
        groups = [group + "/" + cgroups.LEAF for group in facts["cgroups"]]
        return ["sh", "-c", JOIN, "sh", *groups, "--", *enter]

    def call(self, program: Sequence[str], *, cwd: str = "/") -> int:
        """Runs a program in the node on our own terminal; returns its exit status."""
        return process.call(self.entry(program, cwd=cwd))

    def become(self, program: Sequence[str], *, cwd: str = "/") -> NoReturn:
        """Replaces this process by a program in the node."""
        words = self.entry(program, cwd=cwd)
        os.execvp(words[0], words)

    def reload(self, environment: Environment) -> None:
        """Puts the checkout's code into the running node, restarts plugin and daemon, and waits until they serve.

        Raises:
            DevError: The node does not run, or one of them does not come back.
        """
        with self.locked():
            pid = self.pid()
            if not pid:
                raise DevError("node %s is not running" % self.name)
            root = Path("/proc/%d/root" % pid)
            code.install(root, environment.project)
            if environment.supervisor:
                code.install_files(environment.supervisor, root)
            before = [(name, self._service(root, name)) for name in ("daemon", "plugin")]
            ended = [(name, inside) for name, inside in before if inside]
            for _, inside in ended:
                process.call(self.entry(["kill", inside]))

            def back() -> bool:
                """Whether their successors serve, and know each other."""
                fresh = all(
                    self._service(root, name) not in ("", inside) for name, inside in ended
                )
                return fresh and (len(ended) < len(before) or self._plugin_is_known())

            try:
                patience.until(back, RELOAD_PATIENCE)
            except TimeoutError as error:
                raise DevError(
                    "plugin and daemon do not serve again: %s. Run: dev/node logs --name %s"
                    % (error, self.name)
                ) from error

    def _service(self, root: Path, name: str) -> str:
        """The pid of one of its services as the node sees it; "" if it does not run."""
        try:
            return (root / "run/node" / (name + ".pid")).read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def _plugin_is_known(self) -> bool:
        """Whether the daemon answers, and has heard of the plugin."""
        try:
            return bool(
                json.loads(process.run(self.entry(["zeropod", "status", "-o", "json"])))["plugin"]
            )
        except DevError:
            return False


def nodes(cache: Cache) -> List[Node]:
    """All nodes of which something is there."""
    folder = cache.root / "nodes"
    return [Node(cache, path.name) for path in sorted(folder.glob("[a-z0-9]*")) if path.is_dir()]


def described(facts: Dict[str, Any]) -> str:
    """What kind of a node it is, for people."""
    if facts.get("kubernetes"):
        more = "with Kubernetes"
    else:
        more = "with zeropod" if facts.get("zeropod") else "without zeropod"
    return "containerd %s %s" % (facts.get("variant", "?"), more)


def _start_time(pid: int) -> Optional[int]:
    """When a process was started, in clock ticks since boot: tells it from a later one of its pid."""
    try:
        text = Path("/proc/%d/stat" % pid).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # Field 22; the second is a name in parentheses that may contain anything.
    fields = text.rpartition(")")[2].split()
    return int(fields[19]) if fields[0] != "Z" else None


def _only_child(pid: int, seconds: float = 10.0) -> int:
    path = Path("/proc/%d/task/%d/children" % (pid, pid))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            children = path.read_text(encoding="ascii").split()
        except OSError:
            break
        if children:
            return int(children[0])
        time.sleep(0.005)
    raise DevError("the node's first process did not start")
