"""The daemon's API: the messages of service `zeropod.v1.Node`, spoken as ttRPC over a root-only unix socket.

The plugin calls Report, the command line calls the rest. The plugin declares its half of Report by itself (neither
package imports the other); a unit test compares the two.
"""

import importlib.metadata

from ttrpc import messages

SERVICE = "zeropod.v1.Node"

m = messages.schema(
    "zeropod.v1",
    {
        "Empty": [],
        "Policy": [  # of one container; the plugin has validated it
            (1, "scaledown", "optional double"),  # seconds; 0 = never
            (2, "connections", "optional string"),  # keep | wait | close
            (3, "disable_checkpointing", "optional bool"),
            (4, "dry_run", "optional bool"),
            (5, "wake_on_stop", "optional bool"),
            (6, "on_failure", "optional string"),  # stay | freeze
            (7, "cpu_threshold", "optional double"),  # cores; 0 = not looked at
            (8, "max_request", "optional double"),  # seconds
            (9, "min_awake", "optional double"),  # seconds
            (10, "max_image_size", "optional int64"),  # bytes; 0 = no limit
            (11, "ignore_from", "repeated string"),  # CIDRs
            (12, "ignore_ports", "repeated uint32"),
            (13, "ports", "repeated string"),  # "tcp/80"; none = discover
            (14, "pre_dump", "optional bool"),
            (15, "lazy_restore", "optional string"),  # auto | true | false
            (16, "probe_detection", "optional bool"),
            (17, "portless", "optional bool"),
            (18, "notes", "repeated string"),
            (19, "wishes", "repeated string"),  # as written, where not the default
            (20, "names", "repeated string"),  # of containers, in any annotation
            (21, "io_uring", "optional bool"),
        ],
        "Container": [
            (1, "id", "string"),
            (2, "sandbox_id", "string"),
            (3, "name", "string"),
            (4, "pod", "string"),
            (5, "namespace", "string"),
            (6, "uid", "string"),
            (7, "runtime_handler", "string"),
            (8, "pid", "int32"),
            (9, "state", "string"),
            (10, "managed", "bool"),
            (11, "reason", "string"),
            (13, "policy", "Policy"),  # 12 was the annotations as written
            (14, "kind", "string"),  # of `reason`
        ],
        "ReportRequest": [
            (1, "containers", "repeated Container"),
            (2, "complete", "bool"),
            (3, "removed", "repeated string"),
            (4, "present", "repeated string"),  # if complete: all ids, in this request or before
        ],
        # What `zeropod list` shows of one container. Times are seconds since the epoch, 0 = never.
        "Info": [
            (1, "id", "string"),
            (2, "namespace", "string"),
            (3, "pod", "string"),
            (4, "container", "string"),
            (5, "state", "string"),
            (6, "since", "double"),
            (7, "cause", "string"),
            (8, "reason", "string"),
            (9, "image_bytes", "int64"),
            (10, "wake_ms", "double"),
            (11, "wake_cause", "string"),
            (12, "wake_phases", "map<string,double>"),
            (13, "sleep_ms", "double"),
            (14, "sleep_phases", "map<string,double>"),
            (15, "wakes", "int64"),
            (16, "sleeps", "int64"),
            (17, "failed_sleeps", "int64"),
            (18, "failed_wakes", "int64"),
            (19, "pid", "int32"),
            (20, "scaledown", "double"),
            (21, "busy", "string"),
            (22, "ports", "repeated string"),
            (23, "draining", "bool"),
            (24, "held_frames", "int64"),
            (25, "dropped_frames", "int64"),
            (26, "look_in", "double"),
            (27, "kind", "string"),  # of `reason`, see kinds.py
            (
                28,
                "wishes",
                "repeated string",
            ),  # annotations that are not the default, "min-awake=5m"
            (29, "notes", "repeated string"),  # what the owner should know of the annotations
            (30, "dry_run", "bool"),
            (31, "would_sleep", "bool"),  # it would be asleep now if this were no dry run
            (32, "would_sleeps", "int64"),
            (33, "would_wakes", "map<string,int64>"),  # by cause
            (34, "would_save_bytes", "int64"),  # now
            (35, "mode", "string"),  # how it sleeps: image, off or frozen; "" awake
            (36, "uid", "string"),  # of the pod
        ],
        "Query": [(1, "namespace", "string"), (2, "pod", "string"), (3, "container", "string")],
        "RetireRequest": [(1, "timeout", "double")],  # seconds
        "Infos": [(1, "containers", "repeated Info")],
        "Explanation": [(1, "info", "Info"), (2, "text", "string")],
        "Explanations": [(1, "explanations", "repeated Explanation")],
        "Transition": [
            (1, "sequence", "uint64"),
            (2, "time", "double"),
            (3, "info", "Info"),
            (4, "before", "string"),
        ],
        "WatchRequest": [(1, "after", "uint64")],
        "WatchResponse": [(1, "transitions", "repeated Transition"), (2, "last", "uint64")],
        "Status": [
            (1, "version", "string"),
            (2, "criu", "string"),
            (3, "plugin", "bool"),
            (4, "since", "double"),
            (5, "counts", "map<string,int64>"),
            (6, "image_bytes", "int64"),
            (7, "helpers", "map<string,int64>"),
            (
                8,
                "api",
                "map<string,string>",
            ),  # what is told to the Kubernetes API; why not, if it is not
            (9, "api_pending", "int64"),  # pods and events of which it is still to be told
        ],
    },
)


def version() -> str:
    """Our version, from the installed distribution."""
    try:
        return importlib.metadata.version("zeropod")
    except importlib.metadata.PackageNotFoundError:
        return "0 (not installed)"
