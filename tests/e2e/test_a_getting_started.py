"""docs/getting-started.md, word for word, and the examples: after all other files, since it takes zeropod away.

The tests go in the order of the file.
"""

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

#: Overlays that install; those for nodes that are not here, too.
INSTALLATIONS = ("gke", "k0s", "k3s", "kind", "microk8s", "production", "rke2")

UNINSTALLATIONS = ("uninstall", "gke/uninstall", "kind/uninstall")


def steps(begin: str, end: str) -> list[tuple[str, str]]:
    """The commands from one heading to another, each with what it shall print."""
    text = DOCUMENT.read_text(encoding="utf-8")
    text = text[text.index(begin) : text.index(end)]
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


@pytest.fixture(autouse=True)
def cluster_is_there() -> None:
    """All of it needs one."""
    if not (shutil.which("kubectl") and os.environ.get("KUBECONFIG")):
        pytest.skip("needs a cluster: dev/test --tier cluster, or kubectl and KUBECONFIG")


def follow(begin: str, end: str) -> None:
    """Does what the document says from one heading to another."""
    for command, printed in steps(begin, end):
        if printed:
            shows(command, printed)
        else:
            ran(command)


def asleep(pod: str, container: str) -> str:
    """The command that waits for it."""
    path = rf"{{.metadata.labels.status\.zeropod\.ctrox\.dev/{container}}}"
    return f"kubectl wait pod {pod} --for=jsonpath='{path}'=SCALED_DOWN --timeout=60s"


@pytest.mark.timeout(patience.seconds(600))
def test_install_and_see_pods_sleep() -> None:
    """Each command does what the document says, in its order."""
    follow("## Install", "## Take it away")


@pytest.mark.timeout(patience.seconds(300))
def test_example_php() -> None:
    """A request wakes nginx, PHP and redis, each by the one before, and redis still knows the visits."""
    ask = "kubectl get --raw /api/v1/namespaces/default/services/visits:80/proxy/"
    example = (DOCUMENT.parent / "examples/php.yaml").read_text(encoding="utf-8")
    # Where CAP_SYS_RESOURCE is missing, as a dev cluster may do, criu can dump processes of root only.
    here = example.replace("    events {}\n", "    user root;\n    events {}\n")
    assert here != example
    ran(f"kubectl apply -f - <<'END'\n{here}END")
    ran("kubectl rollout status statefulset/visits --timeout=120s")
    shows(ask, "visit")
    last = int(ran(ask).split()[1])
    for container in ("nginx", "php", "redis"):
        ran(asleep("visits-0", container))

    assert int(ran(ask).split()[1]) == last + 1
    ran("kubectl delete -f docs/examples/php.yaml")


@pytest.mark.parametrize("name", [*INSTALLATIONS, *UNINSTALLATIONS])
def test_the_api_takes_every_overlay(name: str) -> None:
    """As it is rendered, strictly: an unknown field is an error. The chart makes the same objects (unit tests)."""
    ran(f"kubectl apply --dry-run=server --validate=strict -k manifests/{name}")


@pytest.mark.timeout(patience.seconds(300))
def test_take_it_away() -> None:
    """What slept goes on, and nothing of ours stays in the API."""
    follow("## Take it away", "## Your own cluster")

    kinds = "namespaces,clusterroles,clusterrolebindings,runtimeclasses,nodes"
    left = ran(f"kubectl get {kinds} -o name").split()
    assert not [name for name in left if name.startswith("zeropod") or "/zeropod" in name]
