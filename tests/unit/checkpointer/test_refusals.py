"""What is refused before an application is touched."""

import subprocess
import sys

import pytest

from checkpointer import rescue
from checkpointer.refusals import Process, read, reason


def tree(*, tracer=0, links=(), paths=("/",)):
    return [Process(7, 0, ("pipe:[1]", "socket:[2]"), ("/",)), Process(8, tracer, links, paths)]


def test_an_ordinary_tree_is_not_refused():
    """Pipes, sockets, epoll and files."""
    assert reason(tree(links=("anon_inode:[eventpoll]", "/data/dump.rdb", "/dev/null"))) == ""


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("anon_inode:[io_uring]", "kernel.io_uring_disabled=2"),
        ("anon_inode:[perf_event]", "performance counters"),
        ("anon_inode:bpf-map", "BPF maps"),
        ("anon_inode:[userfaultfd]", "userfaultfd"),
    ],
)
def test_what_criu_cannot_dump_is_refused_with_the_remedy(link, told):
    """Each kind of descriptor by its own sentence."""
    assert told in reason(tree(links=(link,)))


def test_a_traced_process_is_refused():
    """A debugger and criu cannot share a tracee."""
    assert "traced by 99" in reason(tree(tracer=99))


@pytest.mark.parametrize("where", ["links", "paths"])
def test_files_below_an_atomic_writers_directory_are_refused(where):
    """Kubelet swaps them while the application is asleep."""
    path = "/etc/config/..2026_11_21_10_00_00.123456789/app.yaml"

    assert "kubelet replaces" in reason(tree(**{where: (path,)}))


def test_a_reason_is_text_whatever_a_container_names_its_files():
    """What cannot be printed is escaped: it goes into messages, logs and somebody's terminal."""
    path = "/tmp/..2026_11_21_10_00_00.1/\udcff\x1b[2J"
    said = reason(tree(links=(path,)))

    said.encode()
    assert said.isprintable()
    assert "\\udcff" in said


def test_names_of_processes_and_files_need_not_be_text(tmp_path):
    """A thread's name may be cut in the middle of a character; all that looks at it has to bear that."""
    folder = tmp_path / "\f"  # for str.splitlines the end of a line, for the kernel not
    folder.mkdir()
    script = f"""
import mmap, os, pathlib, sys
pathlib.Path("/proc/self/comm").write_bytes(b"\\xc3")
with open({os_path(folder)} + b"/\\xff", "w+b") as file:
    file.write(b"x")
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0)
    print(flush=True)
    sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (found,) = read([process.pid])
        survey = rescue.survey([process.pid])
        rescued = rescue.after_dump(process.pid)
        process.communicate()

    assert reason([found]) == ""
    assert survey is rescue.Survey.ALL
    assert rescued.healthy


def os_path(path):
    """A path as the bytes literal of a script."""
    return repr(str(path).encode())
