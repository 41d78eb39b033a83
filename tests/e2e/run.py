"""`tox -e e2e`: these tests on a cluster of kind that is made for them, or on the one that KUBECONFIG names.

With KUBECONFIG and without KIND_CLUSTER_NAME the cluster is taken as it is: ZEROPOD_E2E_OVERLAY and
ZEROPOD_E2E_UNINSTALL say what is applied there (manifests/production and manifests/uninstall). Otherwise the cluster
KIND_CLUSTER_NAME (zeropod-e2e) is used; if there is none it is made, and removed afterwards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

IMAGE = "localhost/zeropod:dev"

#: What is needed, and where it is had.
TOOLS = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation (or: go install sigs.k8s.io/kind@latest)",
    "docker": "https://docs.docker.com/engine/install/ (or: apt-get install docker.io)",
}

OTHERWISE = (
    "without docker: dev/test --tier cluster has a cluster of its own (root, Debian or Ubuntu)"
)


class MissingError(Exception):
    """Something has to be installed first."""


def require(*names: str) -> None:
    """Raises MissingError, with the way to get it, unless these programs are there."""
    lost = [name for name in names if not shutil.which(name)]
    if lost:
        raise MissingError("\n".join(f"this needs {name}: {TOOLS[name]}" for name in lost))
    if (
        "docker" in names
        and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        raise MissingError(
            "docker is installed, but its daemon does not answer: systemctl start docker"
        )


@contextmanager
def kind(name: str) -> Iterator[dict[str, str]]:
    """A cluster with our image, as environment variables."""
    require("kubectl", "kind", "docker")
    told = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=True)
    there = name in told.stdout.split()
    with tempfile.TemporaryDirectory() as folder:
        config = os.environ.get("KUBECONFIG") or f"{folder}/kubeconfig"
        env = dict(os.environ, KUBECONFIG=config)
        try:
            if there:
                call(["kind", "export", "kubeconfig", "--name", name], env)
            else:
                call(
                    [
                        "kind",
                        "create",
                        "cluster",
                        "--name",
                        name,
                        "--config",
                        str(HERE / "kind.yaml"),
                        "--wait",
                        "5m",
                    ],
                    env,
                )
            call(["docker", "build", "-f", "Containerfile", "-t", IMAGE, "."], env)
            call(["kind", "load", "docker-image", IMAGE, "--name", name], env)
            yield {
                **env,
                "ZEROPOD_E2E_OVERLAY": "manifests/kind",
                "ZEROPOD_E2E_UNINSTALL": "manifests/kind/uninstall",
                # Each node is a container of its name.
                "ZEROPOD_E2E_REBOOT": "docker restart",
            }
        finally:
            if not there:
                call(["kind", "delete", "cluster", "--name", name], env)


def call(command: Sequence[str], env: dict[str, str]) -> None:
    """Runs a program; raises if it fails."""
    subprocess.run(command, env=env, cwd=REPOSITORY, check=True)


def tests(arguments: Sequence[str], env: dict[str, str]) -> int:
    """Runs pytest; nothing of ours is installed where it runs, and programs that it starts find it all the same."""
    env = {**env, "PYTHONPATH": str(REPOSITORY)}
    chosen = (
        arguments
        if any(word.startswith("tests/") for word in arguments)
        else ["tests/e2e", *arguments]
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", *chosen], env=env, cwd=REPOSITORY, check=False
    ).returncode


def main() -> int:
    """Pytest's status; exits with what is missing."""
    name = os.environ.get("KIND_CLUSTER_NAME")
    try:
        if os.environ.get("KUBECONFIG") and not name:
            require("kubectl")
            return tests(sys.argv[1:], dict(os.environ))
        with kind(name or "zeropod-e2e") as env:
            return tests(sys.argv[1:], env)
    except MissingError as error:
        sys.exit(f"{error}\n{OTHERWISE}")


if __name__ == "__main__":
    sys.exit(main())
