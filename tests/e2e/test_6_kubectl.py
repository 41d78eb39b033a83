"""`kubectl zeropod` as three people have it: who may look, who may change pods, who runs the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e import kubectl, workloads
from e2e.apps import App

from dev import patience

ROLES = {"viewer": "view", "editor": "edit", "operator": "view"}

OPERATOR = "manifests/kubectl/operator.yaml"

SOON = {"scaledown-duration": "3s"}

User = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def users(zeropod: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A kubeconfig for each, with the roles of the documentation."""
    kubectl.run("apply", "-f", OPERATOR)
    subject = f"--serviceaccount={workloads.NAMESPACE}:"
    made = []
    found = {}
    for name, role in ROLES.items():
        kubectl.run("create", "serviceaccount", "-n", workloads.NAMESPACE, name)
        binding = ["rolebinding", "-n", workloads.NAMESPACE, name]
        kubectl.run("create", *binding, f"--clusterrole={role}", subject + name)
        token = kubectl.run("create", "token", "-n", workloads.NAMESPACE, name).strip()
        config = tmp_path_factory.mktemp(name) / "config"
        config.write_text(Path(os.environ["KUBECONFIG"]).read_text())
        config.chmod(0o600)
        change = ["config", "--kubeconfig", str(config)]
        kubectl.run(*change, "set-credentials", name, f"--token={token}")
        kubectl.run(
            *change,
            "set-context",
            "--current",
            f"--user={name}",
            f"--namespace={workloads.NAMESPACE}",
        )
        found[name] = config
    for binding, role in (
        (["rolebinding", "-n", "zeropod-system"], "--role=zeropod-operator"),
        (["clusterrolebinding"], "--clusterrole=zeropod-operator"),
    ):
        kubectl.run("create", *binding, "zeropod-e2e-operator", role, subject + "operator")
        made.append([*binding, "zeropod-e2e-operator"])
    yield found
    for words in made:
        kubectl.run("delete", *words, "--ignore-not-found")
    kubectl.run("delete", "-f", OPERATOR, "--ignore-not-found")


@pytest.fixture
def ask(users: dict[str, Path]) -> User:
    """Run the plugin as one of them."""

    def run(user: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(users[user], *words),
            capture_output=True,
            text=True,
            check=False,
            timeout=patience.seconds(120),
        )

    return run


def command(config: Path, *words: str) -> list[str]:
    """The plugin's command line."""
    return [sys.executable, "-m", "kubectl_zeropod", "--kubeconfig", str(config), *words]


@pytest.fixture
def sleeper(deploy: Callable[..., App]) -> App:
    """nginx, asleep, and its label says so."""
    app = deploy(workloads.nginx(), annotations=SOON)
    app.asleep()
    return app


def labelled(ask: User, app: App, state: str) -> None:
    """Wait until the API says what the daemon does."""
    kubectl.until(
        lambda: state in ask("viewer", "list", app.pod).stdout,
        f"{app.name} is not labelled {state}",
    )


def test_who_may_look_sees_who_sleeps(ask: User, sleeper: App) -> None:
    """`list` and `status` need ClusterRole view; `why` says what the API knows, and which role knows more."""
    labelled(ask, sleeper, "SCALED_DOWN")
    kubectl.until(lambda: "ScaledDown" in ask("viewer", "status", sleeper.pod).stdout, "no event")
    why = ask("viewer", "why", sleeper.pod)
    assert why.returncode == 5
    assert f"{workloads.NAMESPACE}/{sleeper.pod}/nginx is SCALED_DOWN" in why.stdout
    assert "`zeropod-operator`" in why.stderr
    assert ask("viewer", "wake", sleeper.pod).returncode == 5
    assert sleeper.info()["state"] == "ASLEEP"


def test_who_may_exec_may_wake(ask: User, sleeper: App) -> None:
    """With ClusterRole edit `wake` is an exec in the pod itself."""
    done = ask("editor", "wake", sleeper.pod)
    assert (done.returncode, done.stderr) == (0, "")
    assert sleeper.info()["wake_cause"] == "exec"
    assert ask("editor", "sleep", sleeper.pod).returncode == 5
    assert sleeper.restarts() == 0


def test_who_runs_the_cluster_may_do_all(ask: User, deploy: Callable[..., App]) -> None:
    """`why`, `sleep` and `wake` go through the pod of zeropod on the node."""
    app = deploy(workloads.nginx(), annotations={"scaledown-duration": "1h"})
    title = f"{workloads.NAMESPACE}/{app.pod}/nginx"
    app.awake()
    assert ask("operator", "why", app.pod).stdout.startswith(f"{title} is awake since")
    slept = ask("operator", "sleep", app.pod)
    assert slept.stdout.startswith(f"{title} ASLEEP ("), slept.stderr
    assert ask("operator", "why", app.pod).stdout.startswith(f"{title} is asleep since")
    woken = ask("operator", "wake", "-l", f"app={app.name}")
    assert woken.stdout.startswith(f"{title} RUNNING ("), woken.stderr
    assert app.info()["wake_cause"] == "asked"


def test_a_cluster_that_is_well(ask: User) -> None:
    """`doctor` looks at every node and daemon, and finds nothing that failed."""
    done = ask("operator", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert {"node", "daemon"} <= set(checks)
    assert ask("viewer", "doctor").returncode == 5


def test_watching(users: dict[str, Path], deploy: Callable[..., App]) -> None:
    """A line when it falls asleep and one when it wakes, for who may look."""
    app = deploy(workloads.nginx(), annotations=SOON)
    words = command(users["viewer"], "watch", app.pod, "-o", "json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout
            seen = running.stdout.readline()
            while "SCALED_DOWN" not in seen:
                seen = running.stdout.readline()
            app.fetch()
            while "RUNNING" not in seen:
                seen = running.stdout.readline()
        finally:
            running.kill()
