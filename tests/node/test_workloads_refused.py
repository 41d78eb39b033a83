"""What is left alone, or left awake, with a reason; each row of docs/workloads.md that says "refused"."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node import sleepers

from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]
Run = Callable[..., cri.Result]


@pytest.fixture
def profile(tmp_path: Path) -> str:
    """A seccomp profile without a call that the supervisor needs."""
    path = tmp_path / "profile.json"
    rule = {"names": ["rt_sigtimedwait"], "action": "SCMP_ACT_ERRNO"}
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    return str(path)


@pytest.mark.parametrize(
    ("pod", "container", "said"),
    [
        pytest.param({}, {"security": {"add": ["SYS_ADMIN"]}}, "CAP_SYS_ADMIN", id="SYS_ADMIN"),
        pytest.param({}, {"security": {"add": ["SYS_MODULE"]}}, "CAP_SYS_MODULE", id="SYS_MODULE"),
        pytest.param({}, {"security": {"add": ["SYS_RAWIO"]}}, "CAP_SYS_RAWIO", id="SYS_RAWIO"),
        pytest.param(
            {}, {"security": {"add": ["DAC_READ_SEARCH"]}}, "CAP_DAC_READ_SEARCH", id="DAC_READ_SEARCH"
        ),
        pytest.param({}, {"security": {"add": ["BPF"]}}, "CAP_BPF", id="BPF"),
        pytest.param({}, {"command": ["/sbin/init"], "mounts": "/sbin/init"}, "has to be PID 1", id="init system"),
        pytest.param({}, {"mounts": "/.zeropod"}, "/.zeropod", id="own mount"),
        pytest.param({}, {"security": "profile"}, "seccomp profile forbids rt_sigtimedwait", id="seccomp"),
    ],
)  # fmt: skip
def test_not_managed(
    pods: Pods,
    zeropod: Run,
    tmp_path: Path,
    profile: str,
    pod: dict[str, Any],
    container: dict[str, Any],
    said: str,
) -> None:
    """A container that cannot be managed runs as any other, and `why` says what to change."""
    described = {"command": ["sleep", "1000"], **container}
    if where := described.get("mounts"):
        (tmp_path / "init").write_text("#!/bin/busybox sh\nexec sleep 1000\n")
        (tmp_path / "init").chmod(0o755)
        host = tmp_path / "init" if where.endswith("init") else tmp_path
        described["mounts"] = [{"container_path": where, "host_path": str(host)}]
    if described.get("security") == "profile":
        described["security"] = {"profile": f"localhost/{profile}"}
    one = pods(annotations={sleepers.SCALEDOWN: "1s"}, **pod)
    plain = one.run("localhost/busybox:1", **described)
    reference = f"default/{one.name}"
    cri.until(lambda: "UNMANAGED" in zeropod("list", reference).out)
    why = zeropod("why", reference)
    assert said in why.out
    assert "is not managed" in why.out
    assert " /.zeropod/init " not in Path(f"/proc/{plain.pid}/cmdline").read_text().replace(
        "\0", " "
    )
    assert plain.state == "running"


LIBC = "libc = ctypes.CDLL(None)\n"

FORK = "child = os.fork()\nif not child:\n    BODY\n    time.sleep(1000)\ntime.sleep(0.2)"


@pytest.mark.parametrize(
    ("setup", "over", "said"),
    [
        pytest.param(
            LIBC + "it = libc.syscall(323, 1)", "os.close(it)", "userfaultfd", id="userfaultfd"
        ),
        pytest.param(
            LIBC + "it = libc.fanotify_init(0x200, 0)", "os.close(it)", "fanotify", id="fanotify"
        ),
        pytest.param(
            LIBC + "it = libc.syscall(447, 0)\nimport mmap\nos.ftruncate(it, 4096)\n"
            "mapped = mmap.mmap(it, 4096)",
            "mapped.close() or os.close(it)", "memfd_secret", id="secret memory",
        ),
        pytest.param(
            LIBC + "it = libc.mq_open(b'/queue', 0o102, 0o600, None)", "os.close(it)", "/queue",
            id="message queue",
        ),
        pytest.param(
            "it = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", "it.close()", "vsock", id="vsock"
        ),
        pytest.param("it = os.pidfd_open(1)", "os.close(it)", "pidfd", id="pidfd"),
        pytest.param(
            "import pty\npid, it = pty.fork()\nif not pid:\n    os.execvp('sh', ['sh'])\ntime.sleep(0.3)",
            "os.kill(pid, 9) or os.waitpid(pid, 0)", "terminal of its own", id="shell on a terminal",
        ),
        pytest.param(
            FORK.replace("BODY", "ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)"),
            "os.kill(child, 9) or os.waitpid(child, 0)", "net and user namespace", id="sandbox",
        ),
        pytest.param(
            "it = open('/data/big', 'wb'); it.truncate(100 << 20); os.unlink('/data/big')", "it.close()",
            "deleted file '/data/big' of 100 MB", id="large deleted file",
        ),
        pytest.param(
            "import shutil; it = os.open('/usr/lib/python3.13/json', 0); shutil.rmtree('/usr/lib/python3.13/json')",
            "os.close(it)", "'/usr/lib/python3.13/json'", id="deleted directory of the image",
        ),
    ],
)  # fmt: skip
def test_refused_before_anything_is_touched(pods: Pods, setup: str, over: str, said: str) -> None:
    """The reason is told, the application was not even frozen, and it sleeps once the cause is gone."""
    setup += "\nif not isinstance(globals().get('it', 0), int) or globals().get('it', 0) >= 0: print('set up', flush=True)"
    one = sleepers.python(pods, setup, security={"unconfined": True, "add": ["NET_ADMIN"]})
    assert "set up" in one.container.logs(), one.container.logs()
    with one.talk() as talk:
        with pytest.raises(TtrpcError, match=said):
            one.sleep()
        assert said in one.why()
        assert talk.ask("40 + 2") == 42
        talk.ask(over)
        assert one.sleep()["state"] == "ASLEEP"
        assert talk.ask("40 + 2") == 42
    assert one.info()["failed_sleeps"] == 0
    one.unharmed()


@pytest.mark.parametrize("number", [425, 444], ids=["io_uring", "landlock"])
@pytest.mark.parametrize("unconfined", [False, True])
def test_what_cannot_come_back_is_not_there(pods: Pods, number: int, *, unconfined: bool) -> None:
    """io_uring and Landlock look like on a kernel without them, with a seccomp profile and without one."""
    setup = "import errno\nlibc = ctypes.CDLL(None, use_errno=True)"
    one = sleepers.python(pods, setup, security={"unconfined": unconfined})
    call = f"libc.syscall({number}, ctypes.create_string_buffer(b'\\4', 120), 8, 0)"
    assert one.ask(f"[{call}, ctypes.get_errno() == errno.ENOSYS]") == [-1, True]
    one.sleep()
    assert one.ask(f"[{call}, ctypes.get_errno() == errno.ENOSYS]") == [-1, True]
