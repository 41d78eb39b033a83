"""Pods on the node from the command line: `dev/node pod run localhost/redis:1 --annotation k=v`."""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from typing import Any

import grpc

from dev import cgroups
from dev.cri import STATES, Pod
from dev.runtime import Runtime


def run(options: argparse.Namespace) -> int:
    """Runs one pod, from a JSON description or from options; it stays when we end."""
    if options.file:
        description: dict[str, Any] = json.load(sys.stdin)
    elif options.image:
        container: dict[str, Any] = {"image": options.image, "args": options.args}
        if options.env:
            container["env"] = dict(item.split("=", 1) for item in options.env)
        description = {"containers": [container]}
    else:
        message = "what to run? An image, or a description with -f FILE"
        raise LookupError(message)
    containers = description.pop("containers")
    default = (
        containers[0]["image"].rpartition("/")[2].partition(":")[0] + "-" + uuid.uuid4().hex[:5]
    )
    name = options.pod or description.pop("name", default)
    annotations = {
        **description.pop("annotations", {}),
        **dict(item.split("=", 1) for item in options.annotation),
    }
    if options.handler:
        description["runtime_handler"] = options.handler
    pod = Pod(name, annotations=annotations, **description)
    try:
        pod.start()
        for wanted in containers:
            pod.run(**wanted)
    except BaseException:
        pod.remove()
        raise
    print(f"pod {pod.namespace}/{pod.name} {' '.join(pod.addresses)}")
    for one in pod.containers:
        print(f"  {one.name} {one.id[:13]} {one.state}")
    return 0


def show(options: argparse.Namespace) -> int:
    """Lists pods and their containers."""
    runtime = Runtime()
    containers = runtime.call("ListContainers").containers
    for item in runtime.call("ListPodSandbox").items:
        network = runtime.call("PodSandboxStatus", pod_sandbox_id=item.id).status.network
        addresses = " ".join([network.ip, *(more.ip for more in network.additional_ips)])
        print(
            f"{item.metadata.namespace}/{item.metadata.name} {('ready', 'not ready')[item.state]} {addresses}"
        )
        for one in containers:
            if one.pod_sandbox_id == item.id:
                print(
                    f"  {one.metadata.name} {one.id[:13]} {STATES[one.state]} restarts {one.metadata.attempt}"
                )
    return 0


def remove(options: argparse.Namespace) -> int:
    """Removes pods by name, or all."""
    runtime = Runtime()
    status = 1
    for item in runtime.call("ListPodSandbox").items:
        if options.all or item.metadata.name in options.names:
            runtime.call("StopPodSandbox", pod_sandbox_id=item.id)
            runtime.call("RemovePodSandbox", pod_sandbox_id=item.id)
            cgroups.remove(f"kubepods/pod{item.metadata.uid}")
            print(f"pod {item.metadata.namespace}/{item.metadata.name} removed")
            status = 0
    return 0 if options.all else status


def execute(options: argparse.Namespace) -> int:
    """Runs a program in a container: POD or POD/CONTAINER."""
    runtime = Runtime()
    answer = runtime.call(
        "ExecSync",
        container_id=_container(runtime, options.target),
        cmd=options.command,
        timeout=60,
    )
    sys.stdout.write(answer.stdout.decode("utf-8", "replace"))
    sys.stderr.write(answer.stderr.decode("utf-8", "replace"))
    return int(answer.exit_code)


def logs(options: argparse.Namespace) -> int:
    """Shows what a container has written."""
    runtime = Runtime()
    identifier = _container(runtime, options.target)
    status = runtime.call("ContainerStatus", container_id=identifier).status
    with open(status.log_path, encoding="utf-8") as stream:
        for line in stream:
            sys.stdout.write(line.split(" ", 3)[3])
    return 0


def _container(runtime: Runtime, target: str) -> str:
    pod, _, name = target.partition("/")
    for one in runtime.call("ListContainers").containers:
        if one.labels["io.kubernetes.pod.name"] == pod and name in ("", one.metadata.name):
            return str(one.id)
    message = f"no container {target}"
    raise LookupError(message)


def main() -> int:
    """Exit status: 0, a program's own with `exec`, 1 on failure."""
    parser = argparse.ArgumentParser(prog="dev/node pod", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("run", help="run a pod")
    one.set_defaults(action=run)
    one.add_argument("image", nargs="?", help="for example localhost/redis:1")
    one.add_argument("args", nargs="*", help="instead of the image's command")
    one.add_argument("-f", "--file", help="a JSON description: the arguments of dev.cri.Pod, and a list "
                     "`containers` of those of Pod.run")  # fmt: skip
    one.add_argument("--pod", help="its name")
    one.add_argument("--annotation", action="append", default=[], metavar="KEY=VALUE")
    one.add_argument("--env", action="append", default=[], metavar="KEY=VALUE")
    one.add_argument("--handler", default="", help="runtime handler: runc or zeropod")
    one = verbs.add_parser("list", help="list pods")
    one.set_defaults(action=show)
    one = verbs.add_parser("rm", help="remove pods")
    one.set_defaults(action=remove)
    one.add_argument("names", nargs="*")
    one.add_argument("--all", action="store_true")
    one = verbs.add_parser("exec", help="run a program in a container")
    one.set_defaults(action=execute)
    one.add_argument("target", metavar="POD[/CONTAINER]")
    one.add_argument("command", nargs=argparse.REMAINDER)
    one = verbs.add_parser("logs", help="show what a container has written")
    one.set_defaults(action=logs)
    one.add_argument("target", metavar="POD[/CONTAINER]")
    options = parser.parse_args()
    if options.verb == "exec" and options.command[:1] == ["--"]:
        options.command = options.command[1:]
    try:
        return int(options.action(options))
    except grpc.RpcError as error:
        problem = f"containerd: {error.details()}"
    except (LookupError, OSError) as error:
        problem = str(error)
    print(f"dev/node pod: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
