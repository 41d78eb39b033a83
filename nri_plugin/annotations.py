"""The annotations that a pod may carry: one table; pure.

From it pods are judged (`wishes`), the report's defaults are taken, and docs/annotations.md is written (`reference`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nri_plugin import durations, values
from nri_plugin.annotation import ORIGINAL, OURS, Annotation

PROXY = "it limits the original's proxy, and there is none here"
NOT_YET = "it is not acted on yet"

BOOLEAN = '"true" or "false", as Go\'s `strconv.ParseBool` reads them'
DURATION = "Go duration"
NAMES = "names of containers, separated by commas"

TABLE = (
    Annotation(
        name="container-names",
        origin=ORIGINAL,
        form=NAMES,
        parse=values.names,
        default="",
        example="nginx,sidecar",
        mentions=tuple,
        text="The containers of the pod that may sleep; empty means all. A container that is not named is not "
        "touched and stays awake. A name that no container of the pod has is no error, since a pod's "
        "containers are seen one by one; `zeropod why` tells of it.",
    ),
    Annotation(
        name="ports-map",
        origin=ORIGINAL,
        form="container=ports, separated by semicolons; ports separated by commas, `53/udp` for UDP",
        parse=values.ports_by_container,
        default="",
        example="nginx=80,81;dns=53/udp",
        field="ports",
        pick=lambda ports, container: dict(ports).get(container, ()),
        mentions=tuple,
        text="The ports of a container whose traffic is activity and wakes it. Empty, or for a container that is "
        "not in it: every port on which the container is seen to listen, looked up each time, so it is rarely "
        "needed. A named port counts only while the container listens on it. Other ports on which it listens "
        "are treated as if `ignore-ports` named them. A UDP port out of net.ipv4.ip_local_port_range from which the "
        "application sends before anything comes is taken for a client's, and no port, unless it is named.",
    ),
    Annotation(
        name="scaledown-duration",
        origin=ORIGINAL,
        form=DURATION,
        parse=durations.parse,
        default="1m",
        example="10s",
        field="scaledown",
        text="How long a container must be idle before it sleeps; 0 = it never sleeps by itself. Idle means: no "
        "payload on its ports and connections in either direction, nobody waiting for an answer, hardly any CPU used "
        "(`cpu-threshold`), no exec session. Pings of WebSocket, HTTP/2, MQTT and AMQP are no payload, unless TLS "
        "hides them: such a session, pinged more often than this, stays awake. Asleep a client's ping wakes, and the "
        "container sleeps again five seconds later if it had slept for this long, else after this time.",
    ),
    Annotation(
        name="pre-dump",
        origin=ORIGINAL,
        form=BOOLEAN,
        parse=values.boolean,
        default="false",
        example="true",
        field="pre_dump",
        text="Write most of the memory before the application is frozen, so that the freeze is shorter. It makes "
        "going to sleep longer in total and is rarely worth it: a container that goes to sleep is idle. Only where "
        "the kernel can tell which memory changes (CONFIG_MEM_SOFT_DIRTY, on x86 Debian's and Ubuntu's can); where it "
        "cannot, the container sleeps without, and `zeropod why` says so.",
    ),
    Annotation(
        name="disable-checkpointing",
        origin=ORIGINAL,
        form=BOOLEAN,
        parse=values.boolean,
        default="false",
        example="true",
        field="disable_checkpointing",
        text="Keep no memory: the application is ended (SIGTERM, ten seconds, SIGKILL, with all that it and execs have "
        "forked) and started afresh by the first packet or exec, which waits until it listens on its ports again, "
        "for a minute at the most. Open connections end with it. The container stays Running; stopped while there is "
        "no application it ends with exit code 0. An application that opens its port without SO_REUSEADDR may fail to "
        "start within a minute after it closed connections, as after any restart. While it ends, twenty seconds at the "
        "most, other containers of its pod that are idle wait with their sleep.",
    ),
    Annotation(
        name="disable-probe-detection",
        origin=ORIGINAL,
        form=BOOLEAN,
        parse=values.negated,
        default="false",
        example="true",
        field="probe_detection",
        text="The kubelet's connections count and wake as all other traffic does. By default they are no activity, and "
        "probes are answered in a sleeping container's place, but for exec probes (docs/probes.md).",
    ),
    Annotation(
        name="dry-run",
        origin=ORIGINAL,
        form=BOOLEAN,
        parse=values.boolean,
        default="false",
        example="true",
        field="dry_run",
        text="Nothing sleeps; when it would have slept or woken is decided, logged and counted.",
    ),
    Annotation(
        name="lazy-restore",
        origin=ORIGINAL,
        form='"auto", "true" or "false"',
        parse=values.automatic,
        default="auto",
        example="true",
        field="lazy_restore",
        text='Let the application run at a wake before all of its memory is loaded; "auto" does so for large '
        "images. The rest is loaded behind it.",
    ),
    Annotation(
        name="probe-buffer-size",
        origin=ORIGINAL,
        form="whole number",
        parse=values.integer,
        default="1024",
        example="2048",
        note=PROXY,
        text=f"Accepted and checked; {PROXY}: a connection's first bytes are not looked at.",
    ),
    Annotation(
        name="connect-timeout",
        origin=ORIGINAL,
        form="Go duration, also negative",
        parse=durations.parse_signed,
        default="5s",
        example="30s",
        note=PROXY,
        text=f"Accepted and checked; {PROXY}: a client's connection waits as long as the client does.",
    ),
    Annotation(
        name="proxy-timeout",
        origin=ORIGINAL,
        form="Go duration, also negative",
        parse=durations.parse_signed,
        default="5s",
        example="30s",
        note=PROXY,
        text=f"Accepted and checked; {PROXY}: no connection is cut.",
    ),
    Annotation(
        name="migrate",
        origin=ORIGINAL,
        form=NAMES,
        parse=values.names,
        default="",
        example="nginx",
        mentions=tuple,
        note=f"{NOT_YET}: a sleeping container's memory stays on its node",
        text="The containers whose memory goes with the pod to another node. Accepted, not acted on yet.",
    ),
    Annotation(
        name="live-migrate",
        origin=ORIGINAL,
        form="name of a container",
        parse=values.name,
        default="",
        example="nginx",
        mentions=lambda name: (name,),
        note=f"{NOT_YET}: a container's memory stays on its node",
        text="The container that goes to another node while it runs. Accepted, not acted on yet.",
    ),
    Annotation(
        name="disable-migrate-data",
        origin=ORIGINAL,
        form=BOOLEAN,
        parse=values.boolean,
        default="false",
        example="true",
        note=f"{NOT_YET}: nothing is migrated",
        text="Do not take the files along that a migrated container has written. Accepted, not acted on yet.",
    ),
    Annotation(
        name="cpu-requests",
        origin=ORIGINAL,
        form="JSON",
        parse=str,
        default="",
        example='{"nginx":"100m"}',
        silent=True,
        text="The original's manager writes it, to remember a pod's requests. Not read.",
    ),
    Annotation(
        name="memory-requests",
        origin=ORIGINAL,
        form="JSON",
        parse=str,
        default="",
        example='{"nginx":"128Mi"}',
        silent=True,
        text="As `cpu-requests`.",
    ),
    Annotation(
        name="portless-containers",
        origin=OURS,
        form=NAMES,
        parse=values.names,
        default="",
        example="worker",
        field="portless",
        pick=lambda names, container: container in names,
        mentions=tuple,
        text="Containers that may sleep although they listen on no port. An exec, a signal, `zeropod wake` and data "
        "on a connection that they keep open wake them; their own timers do not, so a worker that polls or "
        "runs jobs by the clock stands still. By default a container without a port stays awake.",
    ),
    Annotation(
        name="wake-on-stop",
        origin=OURS,
        form=BOOLEAN,
        parse=values.boolean,
        default="true",
        example="false",
        field="wake_on_stop",
        text="A sleeping application that is to be ended is woken first, so that it shuts down as it would awake. "
        '"false": it ends at once with exit code 0, as with the original.',
    ),
    Annotation(
        name="allow-io-uring",
        origin=OURS,
        form=BOOLEAN,
        parse=values.boolean,
        default="false",
        example="true",
        field="io_uring",
        text="Let the containers use io_uring, which cannot be checkpointed: one that does stays awake. By default the "
        "call that begins it fails with ENOSYS (by the seccomp profile), and programs such as Node.js or uvloop do "
        "without. With `disable-checkpointing` it is always allowed.",
    ),
    Annotation(
        name="connections",
        origin=OURS,
        form='"keep", "wait" or "close"',
        parse=values.choice("keep", "wait", "close"),
        default="keep",
        example="wait",
        field="connections",
        text="What becomes of the clients' open connections. `keep`: they sleep and wake with the application. `wait`: "
        "the container does not sleep while one is open, however silent. `close`: the application's ends are shut down "
        "as the sleep begins, for pools whose idle connections cost nothing to open again; clients read the end of the "
        "connection behind the last byte (no reset), and so does the application. A client that waits for an answer is "
        "kept. Connections that the application has opened itself are kept in any case.",
    ),
    Annotation(
        name="cpu-threshold",
        origin=OURS,
        form="Kubernetes CPU quantity",
        parse=values.cores,
        default="100m",
        example="500m",
        field="cpu_threshold",
        text="A container that uses more CPU than this on average from one look to the next (some ten seconds) is not "
        "idle, although nobody talks to it: it counts as traffic. With a CPU limit, half of the limit is enough, since "
        "who is throttled never shows more. Idle servers use 0 to 20m; raise it for one that is never quiet, such as a "
        "game's, whose world goes on. 0 = its CPU is not looked at.",
    ),
    Annotation(
        name="max-request",
        origin=OURS,
        form=DURATION,
        parse=durations.parse,
        default="10m",
        example="1h",
        field="max_request",
        text="How long a request that was not answered keeps a container awake, a client's or one of its own to "
        "somebody else; after that the other side is taken for gone. Whose turn it is to speak is all that is seen: a "
        "client that sends and never gets an answer has a request open for so long. 0 = not at all.",
    ),
    Annotation(
        name="ignore-from",
        origin=OURS,
        form="addresses and CIDRs, separated by commas",
        parse=values.networks,
        default="",
        example="10.0.0.5,10.1.0.0/16,fd00::/8",
        field="ignore_from",
        text="Peers whose traffic is no activity and wakes nobody, in either direction: scrapers, load balancers' "
        "checks, collectors to which the application sends. Awake they are served as ever; a sleep waits ten seconds "
        "at most for their last answer. Asleep their newest packets (16) wait for somebody else to wake the container, "
        "so they see a time-out, never a reset.",
    ),
    Annotation(
        name="ignore-ports",
        origin=OURS,
        form="port numbers, separated by commas",
        parse=values.ports,
        default="",
        example="9090",
        field="ignore_ports",
        text="Ports, TCP and UDP, whose traffic is no activity and wakes nobody, for instance one for metrics. As "
        "`ignore-from` otherwise.",
    ),
    Annotation(
        name="min-awake",
        origin=OURS,
        form=DURATION,
        parse=durations.parse,
        default="0",
        example="5m",
        field="min_awake",
        text="How long a container stays awake after a wake, whatever its traffic.",
    ),
    Annotation(
        name="max-image-size",
        origin=OURS,
        form="Kubernetes quantity of bytes",
        parse=values.size,
        default="0",
        example="2Gi",
        field="max_image_size",
        text="A container with more memory than this is not put to sleep; 0 = no limit but the node's.",
    ),
    Annotation(
        name="on-failure",
        origin=OURS,
        form='"stay" or "freeze"',
        parse=values.choice("stay", "freeze"),
        default="stay",
        example="freeze",
        field="on_failure",
        text="What becomes of an idle container that cannot be checkpointed: it stays awake, or it is frozen, which "
        "saves its CPU and not its memory; a packet thaws it.",
    ),
)
"""All of them, in the order of the reference."""

BY_NAME: Mapping[str, Annotation] = {annotation.name: annotation for annotation in TABLE}

DEFAULTS: Mapping[str, Any] = {
    **{one.field: one.meant(one.value(""), "") for one in TABLE if one.field},
    "wishes": (),
    "names": (),
    "notes": (),
}
"""What a container gets whose pod says nothing: fields of the report's Policy."""
