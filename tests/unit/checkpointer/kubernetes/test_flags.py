"""When anything of this is there at all."""

import subprocess
import sys

import pytest

from checkpointer import __main__


def test_without_its_flags_the_client_is_not_imported():
    """It costs memory and time, and many nodes do without."""
    program = (
        "import sys, checkpointer.__main__;"
        "print([m for m in ('kubernetes', 'tenacity', 'checkpointer.kubernetes') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], False),
        (["--status-labels"], True),
        (["--status-labels=true"], True),
        (["--status-labels=false"], False),
        (["--startup-taint"], True),
        (["--in-place-scaling", "--status-events=false"], True),
    ],
)
def test_flags_are_as_those_of_the_original(words, wanted):
    """Alone, or with a value."""
    assert bool(__main__._parse(words).kubernetes()) is wanted


def test_what_is_no_value_is_wrong_usage():
    """And says what is one."""
    with pytest.raises(SystemExit):
        __main__._parse(["--status-labels=maybe"])


def test_a_daemon_without_the_name_of_its_node_goes_on(caplog):
    """It wakes containers; that nobody hears of them is in the log, in `zeropod status` and a metric."""
    cluster = __main__._kubernetes(__main__._parse(["--status-labels", "--node-name="]))
    assert "NODE_NAME" in cluster.features()["status-labels"]
    assert cluster.view().features == {"status-labels": False}
    assert "kubernetes.failed" in caplog.text


async def test_without_its_flags_nothing_is_told():
    """And nobody waits for it."""
    cluster = __main__._kubernetes(__main__._parse([]))
    assert cluster.features() == {}
    assert await cluster.caught_up(None, 0.0)
