"""Pods as an API server has them."""


def pod(name, *, namespace="default", node="node-1", labels=None, annotations=None, **spec):
    """A pod with a container `app`, unless the specification has others."""
    containers = spec.pop("containers", [{"name": "app"}])
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels or {},
            "annotations": annotations or {},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": node, "containers": containers, **spec},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"name": one["name"], "restartCount": 3, "state": {"running": {}}}
                for one in containers
            ],
        },
    }


def sleeper(name, state, **more):
    """A pod whose container `app` has this status label."""
    labels = {"status.zeropod.ctrox.dev/app": state, "app": name}
    return pod(
        name, labels=labels, annotations={"zeropod.ctrox.dev/scaledown-duration": "5s"}, **more
    )
