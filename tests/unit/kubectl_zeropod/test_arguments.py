"""The command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kubectl_zeropod import arguments


@pytest.mark.parametrize(
    "words",
    [
        ["list", "-n", "a", "-A"],
        ["list", "-A", "web"],
        ["why"],
        ["sleep", "web", "-l", "app=web"],
        ["sleep", "web", "--all"],
        ["list", "--all"],
        ["wake", "deployment/web"],
        ["wake", "default/web"],
        ["doctor", "-o", "name"],
        ["watch", "-o", "yaml"],
        ["nothing"],
        [],
    ],
)
def test_wrong_usage_is_2(words, capsys):
    """And says something."""
    with pytest.raises(SystemExit) as stopped:
        arguments.parse(words)

    assert stopped.value.code == 2
    assert "kubectl zeropod" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["-n", "a", "list", "web"], ["list", "-n", "a", "pod/web"], ["list", "web", "-na"]]
)
def test_options_stand_before_or_after_the_command(words):
    """As with kubectl."""
    args = arguments.parse(words)

    assert (args.command, args.namespace, args.pods) == ("list", "a", ["web"])


def test_help_needs_no_client():
    """A third of a second, for nothing."""
    code = "import sys; from kubectl_zeropod import __main__; print('kubernetes' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout == "False\n"
