"""What a cluster has to tell, and what of it was printed."""

EVENT = {
    "metadata": {"name": "e1", "namespace": "default"},
    "involvedObject": {
        "kind": "Pod",
        "namespace": "default",
        "name": "web",
        "fieldPath": "spec.containers{app}",
    },
    "reason": "ScaledDown",
    "message": "Scaled down container app in 64ms",
    "type": "Normal",
    "eventTime": "2026-01-01T00:00:00.000000Z",
    "reportingComponent": "zeropod.ctrox.dev/manager",
}


def lines(text):
    """The words of each line."""
    return [line.split() for line in text.splitlines()]
