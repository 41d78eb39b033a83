"""What is refused before an application is touched."""

import pytest

from checkpointer.refusals import Process, reason


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
