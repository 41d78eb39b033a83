"""The command line, with kubectl's own options where there are some."""

import argparse
import importlib.metadata
from collections.abc import Sequence

from kubectl_zeropod import errors

PROGRAM = "kubectl zeropod"

_DEFAULTS = {
    "namespace": None,
    "all_namespaces": False,
    "selector": "",
    "all": False,
    "container": "",
    "output": "",
    "kubeconfig": None,
    "context": None,
    "no_headers": False,
}

_TARGETED = {"why", "sleep", "wake"}
"""Commands that do not take silence for all."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; exits with 2 and a hint on wrong usage, with 0 for --help and --version."""
    parser = make()
    args = parser.parse_args(argv)
    args.pods = [_name(parser, word) for word in getattr(args, "pods", ())]
    if args.all_namespaces and args.namespace:
        parser.error("-n and -A exclude each other")
    if args.all_namespaces and args.pods:
        parser.error("a pod is named in one namespace: -n NAMESPACE POD, or -A without a pod")
    if args.pods and args.selector:
        parser.error("name pods, or select them with -l")
    if args.all and (args.pods or args.selector):
        parser.error("--all and names or -l exclude each other")
    if args.command in _TARGETED and not (args.pods or args.selector or args.all):
        parser.error(f"{args.command}: name a pod, select some with -l, or take --all")
    return args


def make() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(
        PROGRAM,
        allow_abbrev=False,  # --all is not --all-namespaces
        description="Containers that sleep and wake, across a cluster.",
        epilog="Exit codes: 0 done, 1 not possible, 2 usage, 3 no such pod or container, 4 no daemon on its node, "
        "5 not allowed.",
        parents=[_connection()],
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.set_defaults(**_DEFAULTS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tables = ("wide", "json", "yaml", "name")
    for name, text, forms in (
        ("list", "containers that may sleep, and their state", tables),
        ("status", "the same with the last event of each", tables),
        ("why", "why a container is (not) asleep and what would change that", ("json", "yaml")),
        ("sleep", "put containers to sleep now", ("json", "yaml", "name")),
        ("wake", "wake containers now", ("json", "yaml", "name")),
        ("watch", "print states as they change, until interrupted", ("wide", "json", "name")),
    ):
        command = commands.add_parser(
            name,
            help=text,
            description=text.capitalize() + ".",
            parents=[_connection(), _scope()],
            allow_abbrev=False,
        )
        _output(command, forms)
        if name in _TARGETED:
            command.add_argument(
                "--all",
                action="store_true",
                default=argparse.SUPPRESS,
                help="all pods that ask for zeropod, in the namespace or with -A",
            )
        command.add_argument("pods", nargs="*", metavar="POD", help="names of pods, or pod/NAME")
    doctor = commands.add_parser(
        "doctor",
        help="look for what is wrong with zeropod in this cluster",
        description="Look for what is wrong with zeropod in this cluster, and say what to do.",
        parents=[_connection()],
        allow_abbrev=False,
    )
    _output(doctor, ("json", "yaml"))
    return parser


def _connection() -> argparse.ArgumentParser:
    """Options that stand before or after the command, as with kubectl."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--kubeconfig", metavar="FILE", help="instead of $KUBECONFIG or ~/.kube/config"
    )
    common.add_argument(
        "--context", metavar="NAME", help="of the kubeconfig, instead of the current one"
    )
    common.add_argument("-n", "--namespace", help="instead of the context's")
    common.add_argument("--no-headers", action="store_true", help="no first line in tables")
    return common


def _scope() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "-A", "--all-namespaces", action="store_true", help="pods of all namespaces"
    )
    common.add_argument(
        "-l", "--selector", metavar="LABELS", help="pods with these labels, e.g. app=web"
    )
    common.add_argument(
        "-c", "--container", metavar="NAME", help="this one of the pod's containers"
    )
    return common


def _output(parser: argparse.ArgumentParser, forms: Sequence[str]) -> None:
    parser.add_argument(
        "-o",
        "--output",
        choices=forms,
        default=argparse.SUPPRESS,
        help="instead of text for people",
    )


def _name(parser: argparse.ArgumentParser, word: str) -> str:
    """`NAME`, `pod/NAME`, `pods/NAME` or `po/NAME`."""
    kind, slash, name = word.rpartition("/")
    if not name or (slash and kind not in {"pod", "pods", "po"}):
        parser.error(f"{word!r}: write the name of a pod, or pod/NAME; its namespace is -n")
    return name


def _version() -> str:
    try:
        return f"{PROGRAM} {importlib.metadata.version('zeropod')}"
    except importlib.metadata.PackageNotFoundError:
        return f"{PROGRAM} (not installed)"


USAGE = errors.USAGE
"""What argparse exits with."""
