"""What an application consists of, before a sleep and after the wake: processes, descriptors, limits, surroundings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node import sleepers

from dev import cgroups, cri

Pods = Callable[..., cri.Pod]

#: Two children, and two that have daemonised themselves; each counts in a cell of shared memory.
FAMILY = """
import mmap, struct
cells = mmap.mmap(-1, 4096)
def count(number):
    server.socket.close()
    while True:
        struct.pack_into("Q", cells, 8 * number, struct.unpack_from("Q", cells, 8 * number)[0] + 1)
        time.sleep(0.005)
def daemonise(number):
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    count(number)
for number in (0, 1):
    if not os.fork():
        count(number)
for number in (2, 3):
    daemonise(number)
def family():
    return sorted(open(p).read().rpartition(")")[2].split()[1:5] + [p] for p in glob.glob("/proc/[0-9]*/stat"))
def counted():
    return struct.unpack_from("4Q", cells)
"""

THREADS = """
counts = [0] * 10
def work(number):
    while True:
        counts[number] += 1
        time.sleep(0.002)
for number in range(10):
    threading.Thread(target=work, args=[number], daemon=True).start()
def tasks():
    return sorted(os.listdir("/proc/self/task"))
"""

#: What a process knows of itself.
SURROUNDINGS = """
def prctl(option):
    return ctypes.CDLL(None).prctl(option, 0, 0, 0, 0)
def surroundings():
    status = dict(line.rstrip().split(":\\t", 1) for line in open("/proc/self/status"))
    wanted = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
              "SigBlk", "SigIgn", "SigCgt", "Umask", "Cpus_allowed_list"]
    return {
        "environ": dict(os.environ),
        "cwd": os.getcwd(),
        "argv": open("/proc/self/cmdline").read(),
        "exe": os.readlink("/proc/self/exe"),
        "ids": [os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0)],
        "nice": os.nice(0),
        "limits": [resource.getrlimit(number) for number in range(16)],
        "status": {name: status[name] for name in wanted},
        "slack": prctl(30),
        "subreaper": ctypes.CDLL(None).prctl(37, ctypes.byref(ctypes.c_int()), 0, 0, 0),
        "oom": open("/proc/self/oom_score_adj").read(),
        "cgroup": open("/proc/self/cgroup").read(),
        # The time namespace is one of criu's, which makes the monotonic clock go on where it was.
        "namespaces": {
            name: os.readlink("/proc/self/ns/" + name) for name in os.listdir("/proc/self/ns") if "time" not in name
        },
        "mounts": open("/proc/self/mountinfo").read(),
        "descriptors": sorted(
            os.readlink("/proc/self/fd/" + fd) for fd in ("0", "1", "2") if os.path.exists("/proc/self/fd/" + fd)
        ),
        "host": socket.gethostname(),
    }
"""


def all_grow(before: list[int], look: Callable[[], list[int]]) -> None:
    """Wait until every number is greater than before."""
    cri.until(lambda: all(now > then for now, then in zip(look(), before, strict=True)), 30)


@pytest.mark.both
def test_a_family_of_five(pods: Pods) -> None:
    """Five processes, two of them daemonised, have their pids, parents and sessions again, and all go on."""
    one = sleepers.python(pods, FAMILY)
    with one.talk() as talk:
        before = talk.ask("family()")
        assert len([row for row in before if row[-1] != "/proc/1/stat"]) == 5
        for _ in range(3):
            one.sleep()
            assert one.tree() == []
            counted = talk.ask("counted()")
            # The application runs some milliseconds before criu, which it can see, has left.
            cri.until(lambda: talk.ask("family()") == before, 30)
            all_grow(counted, lambda: talk.ask("counted()"))
    assert len(one.tree()) == 5
    one.unharmed()


def test_children_that_end(pods: Pods) -> None:
    """After a wake children that end are reaped, by their parent or by PID 1, and new ones can be made."""
    one = sleepers.python(pods, FAMILY)
    one.sleep()
    assert one.ask("subprocess.run(['sh', '-c', 'exit 6']).returncode") == 6
    orphan = "subprocess.run(['sh', '-c', 'sleep 0.1 & exit 0']).returncode"
    assert one.ask(orphan) == 0
    children = one.ask("[int(row[-1].split('/')[2]) for row in family()]")
    one.ask(f"[os.kill(pid, 9) for pid in {children} if pid not in (1, os.getpid())]")
    cri.until(lambda: len([pid for pid in one.tree() if sleepers.alive(pid)]) == 1, 30)
    one.sleep()
    assert one.ask("1") == 1


def test_threads(pods: Pods) -> None:
    """Ten threads have their ids again and all of them go on."""
    one = sleepers.python(pods, THREADS)
    with one.talk() as talk:
        before = talk.ask("tasks()")
        for _ in range(3):
            one.sleep()
            counts = talk.ask("counts")
            assert talk.ask("tasks()") == before
            all_grow(counts, lambda: talk.ask("counts"))


@pytest.mark.parametrize("level", ["container", "pod"])
def test_cpu_limit(pods: Pods, level: str) -> None:
    """Under a 100m CPU limit it sleeps and wakes, and afterwards the limit is there and throttles it."""
    limits = {"cpu_quota": 10000} if level == "pod" else {}
    resources = {"cpu_quota": 10000} if level == "container" else {}
    pod = pods(annotations={sleepers.SCALEDOWN: "1h"}, limits=limits)
    one = sleepers.python(pods, pod=pod, resources=resources)
    folder = pod.cgroup if level == "pod" else f"{pod.cgroup}/{one.container.id}"
    limit, stat = cpu_files(folder)
    before = limit.read_text()
    one.ask("memory.update(a=1)")
    for _ in range(2):
        one.sleep()
        assert one.ask("memory['a']") == 1
        one.reach("RUNNING")
    assert limit.read_text() == before
    throttled = int(stat.read_text().split("nr_throttled ")[1].split()[0])
    one.ask("[number for number in range(3000000)] and 1", timeout=40)
    assert int(stat.read_text().split("nr_throttled ")[1].split()[0]) > throttled


def cpu_files(folder: str) -> tuple[Path, Path]:
    """The CPU limit and the statistics of a cgroup."""
    if cgroups.unified():
        return cgroups.ROOT / folder / "cpu.max", cgroups.ROOT / folder / "cpu.stat"
    root = next(
        root for root in cgroups.hierarchies() if (root / folder / "cpu.cfs_quota_us").exists()
    )
    return root / folder / "cpu.cfs_quota_us", root / folder / "cpu.stat"


def test_every_cgroup(pods: Pods) -> None:
    """After a wake every process is in the container's cgroup of every hierarchy, children made later too."""
    one = sleepers.python(pods, FAMILY)
    one.sleep()
    one.ask("memory.update(child=subprocess.Popen(['sleep', '100']))")
    one.reach("RUNNING")
    cri.until(lambda: len(one.tree()) == 6, 30)
    wanted = Path(f"/proc/{one.pid}/cgroup").read_text()

    def placed() -> bool:
        return {Path(f"/proc/{pid}/cgroup").read_text() for pid in one.tree()} == {wanted}

    cri.until(placed, 30)


def test_read_only_root(pods: Pods) -> None:
    """A container with a read-only root, no new privileges and no capabilities sleeps and wakes."""
    security = {"readonly_rootfs": True, "no_new_privs": True, "drop_all": True}
    one = sleepers.python(pods, SURROUNDINGS, port=7007, security=security)
    with sleepers.Talk(one.ip, port=7007) as talk:
        before = talk.ask("surroundings()")
        assert before["status"]["CapEff"] == "0000000000000000"
        for _ in range(2):
            one.sleep()
            talk.ask("1")
            one.reach("RUNNING")
            assert talk.ask("surroundings()") == before
        assert "Read-only" in talk.ask("open('/new', 'w')")


@pytest.mark.both
def test_surroundings(pods: Pods) -> None:
    """Environment, directory, ids, groups, limits, masks, affinity, priority and namespaces are as before."""
    special = """
os.setgroups([7, 77])
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
os.nice(3)
os.umask(0o027)
os.chdir("/tmp")
os.environ["LATER"] = "1"
resource.setrlimit(resource.RLIMIT_NOFILE, (333, 444))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
ctypes.CDLL(None).prctl(29, 12345, 0, 0, 0)
"""
    one = sleepers.python(
        pods, SURROUNDINGS + special, env={"GREETING": "hello"}, working_dir="/data"
    )
    with one.talk() as talk:
        before = talk.ask("surroundings()")
        assert before["environ"]["GREETING"] == "hello"
        assert before["nice"] == 3
        for _ in range(2):
            one.sleep()
            talk.ask("1")
            one.reach("RUNNING")
            assert talk.ask("surroundings()") == before


def test_affinity_of_each_thread(pods: Pods) -> None:
    """A thread that was pinned to a CPU is pinned to it again, and the others are not."""
    setup = """
pinned = threading.Event()
def pin():
    os.sched_setaffinity(0, {0})
    pinned.set()
    threading.Event().wait()
threading.Thread(target=pin, daemon=True).start()
pinned.wait()
def masks():
    return sorted((tid, sorted(os.sched_getaffinity(int(tid)))) for tid in os.listdir("/proc/self/task"))
"""
    one = sleepers.python(pods, setup)
    with one.talk() as talk:
        before = talk.ask("masks()")
        assert len({json.dumps(mask) for _, mask in before}) > 1
        one.sleep()
        talk.ask("1")
        one.reach("RUNNING")
        assert talk.ask("masks()") == before


def test_pipes_on_stdio(pods: Pods) -> None:
    """A shell pipeline whose last part writes the log goes on with every line, and standard input stays open."""
    pod = pods(annotations={sleepers.SCALEDOWN: "1h"})
    script = 'python3 -c "$CODE" 2>&1 | while read line; do echo "got $line"; done'
    container = pod.run(
        "localhost/python:1", ["sh", "-c", script], env={"CODE": sleepers.code()}, stdin=True
    )
    one = sleepers.Sleeper(container)
    cri.until(lambda: "got up" in container.logs(), 30)
    sleepers.known(one)
    wanted = "got up\n"
    for number in range(3):
        one.sleep()
        one.ask(f"print('line {number}', flush=True)")
        wanted += f"got line {number}\n"
    cri.until(lambda: container.logs() == wanted, 30)
    one.unharmed()


@pytest.mark.parametrize(
    ("make", "look", "wanted"),
    [
        pytest.param(
            "os.pipe()", "os.write(it[1], b'x') and os.read(it[0], 9).decode()", "fullx", id="pipe"
        ),
        pytest.param(
            "socket.socketpair()",
            "it[0].send(b'x') and it[1].recv(9).decode()",
            "x",
            id="socketpair",
        ),
        pytest.param(
            "os.eventfd(41)", "os.eventfd_write(it, 1) or os.eventfd_read(it)", 42, id="eventfd"
        ),
        pytest.param(
            "open('/tmp/gone', 'w+')", "it.seek(0) or it.read()", "still here", id="unlinked file"
        ),
        pytest.param("os.memfd_create('m')", "os.pread(it, 99, 0).decode()", "memory", id="memfd"),
        pytest.param(
            "open('/dev/shm/map', 'w+')",
            "os.pread(it.fileno(), 99, 0).decode()",
            "shared",
            id="dev shm",
        ),
        pytest.param("os.open('/dev/urandom', 0)", "len(os.read(it, 4))", 4, id="device"),
        pytest.param(
            "os.open('/', os.O_RDONLY)", "'proc' in os.listdir(it)", True, id="directory"
        ),
        pytest.param(
            "os.open('/tmp/lock', os.O_CREAT | os.O_RDWR)",
            "fcntl.flock(os.open('/tmp/lock', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)",
            "BlockingIOError(11, 'Resource temporarily unavailable')",
            id="file lock",
        ),
        pytest.param(
            "socket.create_connection(('127.0.0.1', 7))",
            "it.send(b'40 + 2\\n') and it.recv(99).decode()",
            "42\n",
            id="own connection",
        ),
        pytest.param(
            "signal.setitimer(signal.ITIMER_REAL, 1000)",
            "signal.getitimer(signal.ITIMER_REAL)[0] > 900",
            True,
            id="timer",
        ),
    ],
)
def test_descriptors(pods: Pods, make: str, look: str, wanted: object) -> None:
    """What the application has open works after two sleeps as if nothing had been."""
    setup = f"""
import fcntl
it = {make}
if isinstance(it, tuple) and isinstance(it[0], int):
    os.write(it[1], b"full")
if getattr(it, "name", "") == "/tmp/gone":
    it.write("still here")
    it.flush()
    os.unlink("/tmp/gone")
elif getattr(it, "name", "") == "/dev/shm/map":
    it.write("shared")
    it.flush()
elif isinstance(it, int) and "memfd" in os.readlink(f"/proc/self/fd/{{it}}"):
    os.write(it, b"memory")
elif isinstance(it, int) and os.readlink(f"/proc/self/fd/{{it}}") == "/tmp/lock":
    fcntl.flock(it, fcntl.LOCK_EX)
"""
    one = sleepers.python(pods, setup)
    one.sleep()
    one.ask("1")
    one.sleep()
    assert one.ask(look) == wanted
    one.unharmed()


def test_clocks(pods: Pods) -> None:
    """The sleep takes no time on the monotonic clock, so that no time-out runs out in it; the wall clock is right."""
    one = sleepers.python(pods)
    wall, monotonic = one.ask("[time.time(), time.monotonic()]")
    one.sleep()
    time.sleep(3)
    before = time.time()
    later_wall, later = one.ask("[time.time(), time.monotonic()]")
    assert before <= later_wall <= time.time()
    assert 0 < later - monotonic < later_wall - wall - 2.9


def test_sysv_shared_memory(pods: Pods) -> None:
    """Attached System V shared memory, as PostgreSQL has it, is there again with its contents."""
    setup = """
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, 4096, 0o1600)
address = libc.shmat(segment, None, 0)
ctypes.memmove(address, b"shared", 6)
"""
    one = sleepers.python(pods, setup)
    one.sleep()
    assert one.ask("ctypes.string_at(address, 6).decode()") == "shared"
    one.sleep()
    assert one.ask("ctypes.string_at(address, 6).decode()") == "shared"


def test_large_memory(pods: Pods) -> None:
    """300 MB come back byte for byte while the application already answers, and it can sleep again."""
    setup = "import hashlib, random\nballast = random.Random(1).randbytes(300 << 20)"
    one = sleepers.python(pods, setup)
    digest = one.ask("hashlib.md5(ballast).hexdigest()")
    for _ in range(2):
        one.sleep()
        assert one.ask("ballast[123456789]") >= 0
        assert one.ask("hashlib.md5(ballast).hexdigest()", timeout=40) == digest
        one.reach("RUNNING")
        cri.until(lambda: not one.info()["draining"], 30)
    one.unharmed()
