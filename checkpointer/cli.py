"""`zeropod`: what sleeps on this node, why, and a hand on the switch.

Exit codes: 0 done; 1 it could not be done (the message says why); 2 wrong usage; 3 no such container; 4 the daemon
does not answer.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from checkpointer import api, settings, tables
from ttrpc import blocking, errors

DONE, FAILED, USAGE, NOT_FOUND, NO_DAEMON = range(5)

SLOW = 90.0
"""Seconds to wait for a sleep or a wake; longer than the daemon's own watchdogs."""


class Cli:
    """The commands, over one connection to the daemon."""

    def __init__(self, call: Callable[..., Any], *, as_json: bool) -> None:
        self._call = call
        self._json = as_json

    def status(self, _: argparse.Namespace) -> int:
        """The daemon, its helpers and how many containers are in which state."""
        status = self._call("Status", api.m.Empty(), api.m.Status)
        if self._json:
            return self._dump(_plain(status))
        counts = ", ".join(f"{count} {state}" for state, count in sorted(status.counts.items()))
        print(f"zeropod {status.version}, criu {status.criu}, up {tables.age(status.since)}")
        print(
            f"plugin: {'connected' if status.plugin else 'not connected: new pods run unmanaged'}"
        )
        print(f"containers: {counts or 'none'}; images: {tables.size(status.image_bytes)}")
        for name, pid in sorted(status.helpers.items()):
            print(f"helper {name}: pid {pid}")
        for name, reason in sorted(status.api.items()):
            print(f"{name}: {'off, ' + reason if reason else 'on'}")
        if status.api_pending:
            print(f"Kubernetes API: {status.api_pending} pods and events still to be told")
        return DONE

    def list(self, args: argparse.Namespace) -> int:
        """A table of the containers that ask for zeropod."""
        infos = self._call("List", _query(args.pod), api.m.Infos).containers
        if self._json:
            return self._dump([_plain(info) for info in infos])
        print(tables.table(tables.CONTAINERS, [tables.container(info) for info in infos]))
        return DONE

    def why(self, args: argparse.Namespace) -> int:
        """One paragraph a container."""
        answer = self._call("Why", _query(args.pod), api.m.Explanations).explanations
        if self._json:
            return self._dump([_plain(explanation) for explanation in answer])
        print("\n\n".join(explanation.text for explanation in answer))
        return DONE

    def sleep(self, args: argparse.Namespace) -> int:
        """Put containers to sleep now; waits for it."""
        return self._moved("Sleep", args)

    def wake(self, args: argparse.Namespace) -> int:
        """Wake containers; waits for it."""
        return self._moved("Wake", args)

    def retire(self, args: argparse.Namespace) -> int:
        """Wake everything and let nothing sleep any more, before an uninstallation."""
        request = api.m.RetireRequest(timeout=args.timeout)
        infos = self._call("Retire", request, api.m.Infos, timeout=args.timeout + SLOW).containers
        left = [info for info in infos if info.state not in {"RUNNING", "GONE"}]
        if self._json:
            self._dump([_plain(info) for info in infos])
        else:
            for info in left:
                why = f": {info.reason}" if info.reason else ""
                print(f"{info.namespace}/{info.pod}/{info.container} is {info.state}{why}")
            print(f"{len(infos) - len(left)} of {len(infos)} containers are awake and stay so")
            self._untold()
        return FAILED if left else DONE

    def _untold(self) -> None:
        """Warn of what would stay in the cluster for good if the daemon went now."""
        status = self._call("Status", api.m.Empty(), api.m.Status)
        off = ", ".join(name for name, reason in sorted(status.api.items()) if reason)
        if status.api_pending or off:
            why = f"{off} cannot be done, see `zeropod status`" if off else "it does not answer"
            print(
                f"the Kubernetes API has not been told of all ({why}): pods may keep labels status.zeropod.ctrox.dev/..., and "
                "requests of 1m and 1Ki instead of those in their annotations zeropod.ctrox.dev/...-requests; run this again "
                "when that is mended, or change them yourself"
            )

    def watch(self, args: argparse.Namespace) -> int:
        """Print transitions as they happen, until interrupted."""
        after = self._call("Watch", api.m.WatchRequest(after=2**63), api.m.WatchResponse).last
        while True:
            answer = self._call("Watch", api.m.WatchRequest(after=after), api.m.WatchResponse)
            after = answer.last
            for transition in answer.transitions:
                if _matches(args.pod, transition.info):
                    self._transition(transition)

    def _moved(self, method: str, args: argparse.Namespace) -> int:
        infos = self._call(method, _query(args.pod), api.m.Infos, timeout=SLOW).containers
        if self._json:
            return self._dump([_plain(info) for info in infos])
        for info in infos:
            took = info.sleep_ms if method == "Sleep" else info.wake_ms
            print(
                f"{info.namespace}/{info.pod}/{info.container} {info.state} ({tables.milliseconds(took)})"
            )
        return DONE

    def _transition(self, transition: Any) -> None:
        if self._json:
            print(json.dumps(_plain(transition)), flush=True)
            return
        print(tables.transition(transition), flush=True)

    def _dump(self, value: object) -> int:
        print(json.dumps(value, indent=2))
        return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, connect, run one command; see the module for exit codes."""
    args = _parser().parse_args(argv)
    try:
        with blocking.Client(args.socket) as connection:

            def call(method: str, request: Any, answer: Any, timeout: float = 30.0) -> Any:
                return connection.call(api.SERVICE, method, request, answer, timeout=timeout)

            return int(getattr(Cli(call, as_json=args.output == "json"), args.command)(args))
    except errors.TtrpcError as error:
        away = error.code == errors.Code.UNAVAILABLE
        hint = "; is the zeropod daemon running on this node, and are you root?" if away else ""
        print(f"zeropod: {error.message}{hint}", file=sys.stderr)
        return {errors.Code.UNAVAILABLE: NO_DAEMON, errors.Code.NOT_FOUND: NOT_FOUND}.get(
            errors.Code(error.code), FAILED
        )
    except KeyboardInterrupt:
        return DONE
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # nobody reads: `zeropod list | head`
        return DONE


def _common() -> argparse.ArgumentParser:
    """The same options before and after the command, as with kubectl.

    Each time new ones: a default that one parser gets would be another's that shares them, and win over what was given.
    """
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-o", "--output", choices=("text", "json"), default=argparse.SUPPRESS)
    common.add_argument("--socket", type=Path, default=argparse.SUPPRESS)
    return common


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "zeropod",
        description="Pods on this node that sleep and wake.",
        epilog="Exit codes: 0 done, 1 not possible, 2 usage, 3 no such container, 4 no daemon.",
        parents=[_common()],
    )
    parser.set_defaults(output="text", socket=settings.Settings().socket)
    common = _common()
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("status", help="the daemon and its helpers", parents=[common])
    what = "[NAMESPACE/]POD[/CONTAINER]"
    for name, needs, text in (
        ("list", "?", "containers, their state and last wake"),
        ("why", 1, "why a container is (not) asleep and what would change that"),
        ("sleep", 1, "put it to sleep now"),
        ("wake", 1, "wake it now"),
        ("watch", "?", "print transitions as they happen"),
    ):
        command = commands.add_parser(name, help=text, parents=[common])
        command.add_argument(
            "pod", nargs=needs, type=_reference, metavar=what, help=f"e.g. default/redis ({what})"
        )
    retire = commands.add_parser(
        "retire", help="wake all for good, before an uninstallation", parents=[common]
    )
    retire.add_argument("--timeout", type=float, default=120.0, help="seconds (default: 120)")
    return parser


def _reference(text: str) -> tuple[str, str, str]:
    """`NS/POD[/CONTAINER]`, or `POD` in any namespace."""
    parts = text.split("/")
    if len(parts) > 3 or not all(parts):
        raise argparse.ArgumentTypeError(
            f"{text!r}: write NAMESPACE/POD, NAMESPACE/POD/CONTAINER or POD"
        )
    if len(parts) == 1:
        return "", parts[0], ""
    return parts[0], parts[1], parts[2] if len(parts) == 3 else ""


def _query(pod: Any) -> Any:
    reference = pod[0] if isinstance(pod, list) else pod
    namespace, name, container = reference or ("", "", "")
    return api.m.Query(namespace=namespace, pod=name, container=container)


def _matches(pod: Any, info: Any) -> bool:
    query = _query(pod)
    return all(
        not wanted or wanted == got
        for wanted, got in (
            (query.namespace, info.namespace),
            (query.pod, info.pod),
            (query.container, info.container),
        )
    )


def _plain(message: Any) -> dict[str, Any]:
    """A message as JSON; its 64-bit numbers are numbers, which protobuf's JSON writes as strings."""
    fields: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    for field in message.DESCRIPTOR.fields:
        if field.name not in fields:
            continue
        inner, value = field.message_type, fields[field.name]
        if inner is None:
            fields[field.name] = int(value) if field.cpp_type in _LONG else value
        elif inner.GetOptions().map_entry:
            if inner.fields_by_name["value"].cpp_type in _LONG:
                fields[field.name] = {key: int(count) for key, count in value.items()}
        else:
            fields[field.name] = _plain(getattr(message, field.name))
    return fields


_LONG = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}


if __name__ == "__main__":
    sys.exit(main())
