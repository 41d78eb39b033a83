"""docs/getting-started.md, word for word: after everything else, since it installs zeropod and takes it away."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dev import patience

DOCUMENT = Path(__file__).parents[2] / "docs/getting-started.md"

#: What a test cluster has its image from, if not from where the document has it.
OVERLAYS = {
    "manifests/kind/uninstall": os.environ.get("ZEROPOD_E2E_UNINSTALL", "manifests/uninstall"),
    "manifests/kind": os.environ.get("ZEROPOD_E2E_OVERLAY", "manifests/production"),
}


def steps() -> list[tuple[str, str]]:
    """The commands from the installation on, each with what it shall print."""
    text = DOCUMENT.read_text(encoding="utf-8")
    text = text[text.index("## Install") : text.index("## Your own cluster")]
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = step.partition("\n")
            found.append((command, printed))
    return found


def telling(text: str) -> set[str]:
    """The words of an output that are the same each time: no generated names, ages, sizes, versions."""
    volatile = re.compile(r"\d\d|\d\.\d|v\d|^\d+m?s$|-[a-z0-9]{5}$")
    return {word for word in re.split(r"[\s;]+", text) if word and not volatile.search(word)}


def ran(command: str) -> str:
    """What a command of the document printed, on this cluster."""
    for name, here in OVERLAYS.items():
        command = re.sub(rf"{name}(?=\s|$)", here, command)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=DOCUMENT.parents[1], capture_output=True, text=True,
        timeout=patience.seconds(240), check=False,
    )  # fmt: skip
    assert not done.returncode, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def shows(command: str, printed: str) -> None:
    """Repeats a command that only looks until it has printed what the document has; labels and events take a moment."""
    told = ""

    def asked() -> bool:
        nonlocal told
        told = ran(command)
        return telling(printed) <= telling(told)

    try:
        patience.until(asked, 30, pause=0.5)
    except TimeoutError:
        raise AssertionError(f"{command}\n{told}") from None


@pytest.mark.timeout(patience.seconds(600))
def test_getting_started() -> None:
    """Each command does what the document says, in its order, and in the end nothing of ours is in the API."""
    if not (shutil.which("kubectl") and os.environ.get("KUBECONFIG")):
        pytest.skip("needs a cluster: dev/test --tier cluster, or kubectl and KUBECONFIG")
    for command, printed in steps():
        if printed:
            shows(command, printed)
        else:
            ran(command)

    kinds = "namespaces,clusterroles,clusterrolebindings,runtimeclasses,nodes"
    left = ran(f"kubectl get {kinds} -o name").split()
    assert not [name for name in left if name.startswith("zeropod") or "/zeropod" in name]
