"""The daemon's side of the responder: starts it, hands it a pod's listeners, tells it what to say.

It belongs to the node, not to this daemon: a later daemon finds it by the path of its socket, which names its version.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bpf import pins
from redirector.errors import AnsweringError
from redirector.kubelet import Ear
from redirector.probes import Rules

log = logging.getLogger(__name__)

NOWHERE = ("192.0.0.8", "100::1")
"""Addresses that are nobody's: IPv4's dummy address (RFC 7600), and one of the prefix to be discarded (RFC 6666). The programs
know them, too (`assign` in bpf/datapath.c)."""

Inside = Callable[[Callable[[], list[int]]], list[int]]
"""Calls a function in a pod's network namespace."""

HERE = Path(__file__).parent

SOURCES = ("responder.py", "conversation.py", "health.py", "maker.py", "probes.py")
"""What the responder consists of. One that was started from others is another version's."""

_CONTROL_FD = 200
_PATIENCE = 5.0
_TRIES = 64  # to find a port that is free for both families; those that were tried are kept from being found again
_CERTIFICATE_DAYS = "36500"


class Answering:
    """The responder of a node, started when it is first needed.

    Args:
        directory: Where its socket, its log and its certificate are.
        ear: Nothing is answered while the kubelet's connections are not known.
        adopt: Called with its pid: gives it a place where it outlives the daemon.
    """

    def __init__(self, directory: Path, ear: Ear, adopt: Callable[[int], None]) -> None:
        self._directory = directory
        self._ear = ear
        self._adopt = adopt
        self._pid = 0
        digest = hashlib.sha256()
        for name in SOURCES:
            digest.update((HERE / name).read_bytes())
        self._path = directory / f"{digest.hexdigest()[:12]}.sock"

    def pids(self) -> dict[str, int]:
        """Return its pid and that of its maker of sockets by their names, once they are known."""
        if not self._pid:
            return {}
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children")
        with contextlib.suppress(OSError):  # it has ended
            for pid in children.read_text().split():
                return {"responder": self._pid, "responder-maker": int(pid)}
        return {"responder": self._pid}

    def listen(self, pod: str, inside: Inside, held: Callable[[], Collection[int]]) -> int:
        """Return the port on which the responder listens in a pod, 0 if it does not.

        Without it probes wait and wake like everybody's connections.

        Args:
            pod: Its sandbox.
            inside: Calls a function in its network.
            held: Returns ports that are free only because somebody sleeps who wants them back.
        """
        if not self._ear.hears:
            return 0
        try:
            found = self._ask({"do": "port", "pod": pod})
            self._pid = found["pid"]
            if found["port"]:
                return int(found["port"])
            others = held()
            fds = inside(lambda: _listeners(others))
            try:
                return int(self._ask({"do": "listen", "pod": pod}, fds)["port"])
            finally:
                for fd in fds:
                    os.close(fd)
        except (OSError, KeyError, ValueError, AnsweringError) as error:
            log.warning("responder.failed", extra={"pod": pod, "reason": str(error)})
            return 0

    def tell(self, pod: str, rules: Mapping[int, Rules]) -> None:
        """Say what to answer on these ports of a pod."""
        # Together what is the same: a message has an end, and probes may be long.
        ports: dict[Rules, list[int]] = {}
        for port, one in rules.items():
            ports.setdefault(one, []).append(port)
        encoded = [{"ports": those, **one.encoded()} for one, those in ports.items()]
        self._send({"do": "rules", "pod": pod, "rules": encoded})

    def leave(self, pod: str) -> None:
        """Nothing sleeps in a pod any more."""
        self._send({"do": "leave", "pod": pod})

    def keep(self, pods: Collection[str]) -> None:
        """These are all the pods in which something sleeps; one that is not needed ends with its last connection.

        That is one of another version, and ours if there is no kubelet to be answered.
        """
        for path in self._directory.glob("*.sock"):
            if path == self._path and self._ear.hears:
                self._pid = self._found()
                self._send({"do": "keep", "pods": list(pods)})
                continue
            try:
                _call(path, {"do": "retire"}, ())
            except (ConnectionRefusedError, FileNotFoundError):
                pass  # it has gone
            except (OSError, ValueError) as error:
                # Without its path nobody could ever tell it again.
                log.warning("responder.unretired", extra={"path": str(path), "reason": str(error)})
                continue
            path.unlink(missing_ok=True)
            path.with_suffix(".log").unlink(missing_ok=True)

    def lives(self) -> bool:
        """Whether it does; True also where none was needed yet."""
        return not self._pid or bool(self._found())

    # --- the process ---

    def _send(self, order: Mapping[str, Any]) -> None:
        """Tell what is of no use to one that is not there."""
        if self._pid:
            try:
                _call(self._path, order, ())
            except (OSError, ValueError) as error:
                log.warning(
                    "responder.unreachable", extra={"order": order["do"], "reason": str(error)}
                )

    def _ask(self, order: Mapping[str, Any], fds: Collection[int] = ()) -> dict[str, Any]:
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
            return _call(self._path, order, fds)
        with self._locked():
            if not self._found():
                self._start()
        return _call(self._path, order, fds)

    def _found(self) -> int:
        """Its pid, 0 if it is not there."""
        try:
            return int(_call(self._path, {"do": "hello"}, ())["pid"])
        except (OSError, KeyError, ValueError):
            return 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _start(self) -> None:
        if self._pid:
            with contextlib.suppress(ChildProcessError):  # an earlier daemon's
                os.waitpid(self._pid, os.WNOHANG)
        self._path.unlink(missing_ok=True)
        certificate = self._certificate()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.bind(str(self._path))
            self._path.chmod(0o600)
            control.listen(64)
            words = ["-m", "redirector.responder", str(_CONTROL_FD), certificate]
            waits, place = os.pipe()
            try:
                self._pid = self._spawn([sys.executable, *words], control.fileno(), waits)
            except BaseException:
                os.close(place)
                raise
            finally:
                os.close(waits)
        try:
            self._adopt(self._pid)
        except OSError as error:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(place)
            raise AnsweringError(
                f"the responder cannot leave the daemon's cgroup: {error}"
            ) from error
        with contextlib.suppress(PermissionError):  # without CAP_SYS_RESOURCE
            Path(f"/proc/{self._pid}/oom_score_adj").write_text("-1000")
        os.close(place)  # it goes on, and may have children
        log.info("responder.started", extra={"pid": self._pid, "tls": bool(certificate)})

    def _spawn(self, argv: list[str], control: int, waits: int) -> int:
        search = [str(pins.SOURCES.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join(filter(None, search)),
            "PYTHONUNBUFFERED": "1",
        }
        output = str(self._path.with_suffix(".log"))
        actions = [
            (os.POSIX_SPAWN_DUP2, waits, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, control, _CONTROL_FD),
        ]
        # It outlives us, and must not be anybody's pending child object.
        return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True)

    def _certificate(self) -> str:
        """Return the file with a key and a certificate for it, "" if none can be made.

        The kubelet verifies none. Without one HTTPS probes are passed on, and wake.
        """
        path = self._directory / "certificate.pem"
        if path.exists():
            return str(path)
        key, signed = path.with_suffix(".key"), path.with_suffix(".crt")
        words = ["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        words += ["-days", _CERTIFICATE_DAYS, "-subj", "/CN=zeropod"]
        words += ["-keyout", str(key), "-out", str(signed)]
        actions = [
            (os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)
        ]
        try:
            environment = {**os.environ, "OPENSSL_CONF": "/dev/null"}
            pid = os.posix_spawnp(
                "openssl", ["openssl", *words], environment, file_actions=actions
            )
            if os.waitpid(pid, 0)[1]:
                raise OSError("openssl failed")
            draft = path.with_suffix(".draft")
            draft.write_bytes(key.read_bytes() + signed.read_bytes())
            draft.rename(path)
        except OSError as error:
            log.warning(
                "responder.no_tls", extra={"reason": str(error), "effect": "HTTPS probes wake"}
            )
            return ""
        finally:
            key.unlink(missing_ok=True)
            signed.unlink(missing_ok=True)
        return str(path)


def _call(path: Path, order: Mapping[str, Any], fds: Collection[int]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(_PATIENCE)
        client.connect(str(path))
        socket.send_fds(client, [json.dumps(order).encode()], list(fds))
        data = client.recv(1 << 16)
    answer = json.loads(data or b"null")
    if not isinstance(answer, dict) or "error" in answer:
        raise ValueError(f"the responder refused {order['do']}: {answer}")
    return answer


def _listeners(others: Collection[int]) -> list[int]:
    """Return listeners in the thread's network namespace, of one port, for connections that the programs assign.

    Nobody else can ask for them, neither from outside nor from a container of the pod: one that could keep them busy would
    fail the probes of all pods.
    """
    with contextlib.ExitStack() as opened:
        for _ in range(_TRIES):
            first = opened.enter_context(_listener(socket.AF_INET, NOWHERE[0], 0))
            found = [first]
            try:
                port = first.getsockname()[1]
                if port in others:
                    continue
                found.append(opened.enter_context(_listener(socket.AF_INET6, NOWHERE[1], port)))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
            return [sock.detach() for sock in found]
    raise AnsweringError("no port is free for the responder")


def _listener(family: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Beside its connections, which have the application's port, that is opened again.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        sock.bind((address, port))
        sock.listen(1024)
    except BaseException:
        sock.close()
        raise
    return sock


_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75  # linux/in.h, linux/in6.h
