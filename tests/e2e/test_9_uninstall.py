"""Taking it away: what sleeps is woken, what runs runs on, and nothing is left."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from e2e import apps, kubectl, nodes, product, workloads
from e2e.apps import App

from dev import patience


def started() -> dict[tuple[str, str], str]:
    """Of each container in the cluster that is not ours which run of it this is."""
    return {
        (one["metadata"]["uid"], status["name"]): status["containerID"]
        for one in kubectl.items("pods", "-A")
        if one["metadata"]["namespace"] != product.NAMESPACE
        and not one["metadata"].get("deletionTimestamp")
        for status in one["status"].get("containerStatuses", ())
        if "running" in status["state"]
    }


def test_uninstalling_leaves_nothing(
    before: dict[str, list[str]], deploy: Callable[..., App]
) -> None:
    """A sleeping database goes on with its memory and without a restart; nodes and API are as before the installation."""
    redis = deploy(
        workloads.container("redis", workloads.REDIS, port=6379),
        annotations={"scaledown-duration": "3s"},
    )
    assert redis.redis("set", "key", "kept") == "OK"
    redis.asleep()

    running = started()

    product.uninstall()

    # Pods of tests before may have ended meanwhile.
    now = {key: run for key, run in started().items() if key in running}
    assert now == {key: running[key] for key in now}
    assert len(now) > 3
    assert redis.redis("get", "key") == "kept"
    assert redis.restarts() == 0
    assert (
        kubectl.run(
            "exec", "-n", workloads.NAMESPACE, redis.pod, "--", "redis-cli", "get", "key"
        ).strip()
        == "kept"
    )
    assert apps.labels(redis) == {}
    kubectl.run("delete", "pod", "-n", workloads.NAMESPACE, redis.pod)
    for node in nodes.names():
        assert [one for one in product.traces(node) if one not in before[node]] == []
    assert product.objects() == []


def documented() -> list[str]:
    """The commands for what is left where no daemon ran."""
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")
    section = text.split("\n### Without a daemon\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [
        step.strip()
        for block in blocks
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)
        if step
    ]


def test_what_is_left_without_a_daemon_is_removed_by_the_documents_commands(
    cluster: None,
) -> None:
    """Labels and lowered requests of a pod whose daemon was killed: the commands find them, and no other pod."""
    requests = {"requests": {"cpu": "1m"}}
    annotations = {"cpu-requests": '{"nginx":"100m"}'}
    kubectl.apply(
        workloads.pod("left", [workloads.nginx(resources=requests)], annotations=annotations)
    )
    app = App("left")
    app.ready()
    label = f"status.{workloads.PREFIX}nginx=RUNNING"
    kubectl.run("label", "pod", "-n", workloads.NAMESPACE, app.name, label, "foreign=stays")

    def ran(command: str) -> str:
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True,
                              timeout=patience.seconds(60), check=False)  # fmt: skip
        assert not done.returncode, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    unlabel, find, *give_back = documented()
    assert len(give_back) == 2
    ran(unlabel)
    assert apps.labels(app) == {}
    assert app.object()["metadata"]["labels"]["foreign"] == "stays"
    line = f'{workloads.NAMESPACE} left zeropod.ctrox.dev/cpu-requests={{"nginx":"100m"}}'
    assert line in ran(find).splitlines()
    for command in give_back:
        ran(command.replace("-n default web", f"-n {workloads.NAMESPACE} left"))
    assert app.object()["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "100m"}
    kubectl.run("delete", "pod", "-n", workloads.NAMESPACE, app.name, "--wait=false")
