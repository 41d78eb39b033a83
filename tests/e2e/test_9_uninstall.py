"""Taking it away: what sleeps is woken, what runs runs on, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable

from e2e import apps, kubectl, nodes, product, workloads
from e2e.apps import App


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
