"""Static pods: the node knows them by the hash of their file, the API server by a uid of its own."""

from __future__ import annotations

from fakes.clusters import described, quiet, until

from checkpointer.containers import Record
from checkpointer.kubernetes.pods import Pod

HASH = "93efb157af3e023e360e09e88b60a502"
MIRROR = {
    "kubernetes.io/config.hash": HASH,
    "kubernetes.io/config.mirror": HASH,
    "kubernetes.io/config.source": "file",
}
LABEL = "status.zeropod.ctrox.dev/app"


async def test_a_static_pod_is_seen_in_the_cluster(begin, daemon, cluster):
    """Its labels and what it declares are found; its events name the hash, by which kubelet and kubectl have them."""
    cluster.put("static", annotations=MIRROR)
    daemon.knows("static", "RUNNING", uid=HASH)
    side = begin()
    await until(lambda: cluster.label("static") == "RUNNING")
    daemon.sleeps("static", uid=HASH)
    await until(lambda: cluster.label("static") == "SCALED_DOWN")
    await until(lambda: "RequestsKept" in cluster.events())
    record = Record("id-static", "pod", "static", "default", HASH, "app")

    assert side.declared(record) is not None
    assert {event["involvedObject"]["uid"] for event in cluster.events().values()} == {HASH}
    assert "static pod" in cluster.events()["RequestsKept"]["message"]
    assert cluster.requests("static")["cpu"] == "100m"


async def test_a_static_pods_object_is_made_anew(begin, daemon, cluster, server):
    """The kubelet does so when somebody deletes it; the container goes on."""
    cluster.put("static", annotations=MIRROR)
    daemon.knows("static", "RUNNING", uid=HASH)
    begin(status_labels=True)
    await until(lambda: cluster.label("static") == "RUNNING")
    server.drop("pods", "default", "static")
    again = described("static", annotations=MIRROR)
    again["metadata"]["uid"] = "another"
    server.put("pods", again)

    await until(lambda: cluster.label("static") == "RUNNING")


async def test_nobody_takes_another_pods_place(begin, daemon, cluster, server):
    """Whoever may make pods may give one the annotations of a static pod; and the uid of a pod is no secret."""
    stranger = described("stranger", annotations=dict.fromkeys(MIRROR, "uid-web"))
    server.put("pods", stranger)
    daemon.knows("web", "RUNNING")
    side = begin(status_labels=True)
    await until(lambda: cluster.label() == "RUNNING")
    server.drop("pods", "default", "stranger")
    server.put("pods", stranger)
    daemon.sleeps("web")
    await until(lambda: cluster.label() == "SCALED_DOWN")
    server.drop("pods", "default", "stranger")
    daemon.wakes("web")
    await until(lambda: cluster.label() == "RUNNING")
    server.put("pods", stranger)
    await quiet(side, server)

    assert cluster.label("stranger") is None


def test_who_counts_of_two_objects_for_one_uid():
    """Who has that uid of the API server, however old it is."""
    own, mirror = (Pod.of(described("web", annotations=notes)) for notes in ({}, MIRROR))
    thing = described("web", annotations=dict.fromkeys(MIRROR, "uid-web"))
    thing["metadata"] |= {"uid": "another", "resourceVersion": "9"}
    impostor = Pod.of(thing)

    assert own.newer(impostor)
    assert not impostor.newer(own)
    assert (mirror.uid, mirror.object_uid) == (HASH, "uid-web")
    assert (impostor.uid, impostor.object_uid) == ("uid-web", "another")
