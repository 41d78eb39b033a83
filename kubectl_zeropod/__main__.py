"""`kubectl-zeropod`, which kubectl finds in the PATH as `kubectl zeropod`."""

import contextlib
import os
import sys
from collections.abc import Sequence

from kubectl_zeropod import arguments, errors


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, connect, run one command; the exit code."""
    args = arguments.parse(argv)
    # The client takes a third of a second to import; --help does not need it.
    from kubectl_zeropod.cluster import Cluster  # noqa: PLC0415
    from kubectl_zeropod.commands import Commands  # noqa: PLC0415

    try:
        with contextlib.closing(Cluster(args.kubeconfig, args.context)) as cluster:
            code = getattr(Commands(cluster, args), args.command)()
        sys.stdout.flush()
        return int(code)
    except errors.PluginError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return errors.DONE
    except BrokenPipeError:
        # Nobody reads any more: `kubectl zeropod list | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.DONE


if __name__ == "__main__":
    sys.exit(main())
