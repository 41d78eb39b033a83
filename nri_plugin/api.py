"""The part of NRI that we use.

Source: pkg/api/api.proto of github.com/containerd/nri v0.12.0, package nri.pkg.api.v1alpha1. From
0.6.1 on messages were only added to, so these serve every version.
"""

from __future__ import annotations

import enum

from ttrpc import messages

PACKAGE = "nri.pkg.api.v1alpha1"
PLUGIN_SERVICE = f"{PACKAGE}.Plugin"
RUNTIME_SERVICE = f"{PACKAGE}.Runtime"

VERSION = "0.12.0"
"""NRI's version that we tell the runtime; ours to know, 0.12 only logs it."""

_messages = messages.schema(
    PACKAGE,
    {
        "Empty": [],
        "RegisterPluginRequest": [
            (1, "plugin_name", "string"),
            (2, "plugin_idx", "string"),
            (3, "NRI_version", "string"),
        ],
        "ConfigureRequest": [
            (1, "config", "string"),
            (2, "runtime_name", "string"),
            (3, "runtime_version", "string"),
            (4, "registration_timeout", "int64"),  # milliseconds
            (5, "request_timeout", "int64"),  # milliseconds; 0 before NRI 0.8
            (6, "NRI_version", "string"),  # from 0.12 on
        ],
        "ConfigureResponse": [(2, "events", "int32")],
        "SynchronizeRequest": [
            (1, "pods", "repeated PodSandbox"),
            (2, "containers", "repeated Container"),
            (3, "more", "bool"),
        ],
        "SynchronizeResponse": [(2, "more", "bool")],
        "StateChangeEvent": [
            (1, "event", "int32"),
            (2, "pod", "PodSandbox"),
            (3, "container", "Container"),
        ],
        # Every event's own request begins like this, and an empty message is an answer to each.
        "EventRequest": [(1, "pod", "PodSandbox"), (2, "container", "Container")],
        "PodSandbox": [
            (1, "id", "string"),
            (2, "name", "string"),
            (3, "uid", "string"),
            (4, "namespace", "string"),
            (6, "annotations", "map<string,string>"),
            (7, "runtime_handler", "string"),
            (9, "pid", "uint32"),  # of its pause process
        ],
        "Mount": [(1, "destination", "string"), (3, "source", "string")],
        "Container": [
            (1, "id", "string"),
            (2, "pod_sandbox_id", "string"),
            (3, "name", "string"),
            (4, "state", "int32"),
            (6, "annotations", "map<string,string>"),
            (7, "args", "repeated string"),
            (8, "env", "repeated string"),
            (9, "mounts", "repeated Mount"),
            (12, "pid", "uint32"),
        ],
    },
)

Empty: messages.MessageClass = _messages.Empty
RegisterPluginRequest: messages.MessageClass = _messages.RegisterPluginRequest
ConfigureRequest: messages.MessageClass = _messages.ConfigureRequest
ConfigureResponse: messages.MessageClass = _messages.ConfigureResponse
SynchronizeRequest: messages.MessageClass = _messages.SynchronizeRequest
SynchronizeResponse: messages.MessageClass = _messages.SynchronizeResponse
StateChangeEvent: messages.MessageClass = _messages.StateChangeEvent
EventRequest: messages.MessageClass = _messages.EventRequest
PodSandbox: messages.MessageClass = _messages.PodSandbox
Mount: messages.MessageClass = _messages.Mount
Container: messages.MessageClass = _messages.Container


class Event(enum.IntEnum):
    """Events that all versions know; later ones must not be asked of an older runtime."""

    RUN_POD_SANDBOX = 1
    STOP_POD_SANDBOX = 2
    REMOVE_POD_SANDBOX = 3
    CREATE_CONTAINER = 4
    POST_CREATE_CONTAINER = 5
    START_CONTAINER = 6
    POST_START_CONTAINER = 7
    UPDATE_CONTAINER = 8
    POST_UPDATE_CONTAINER = 9
    STOP_CONTAINER = 10
    REMOVE_CONTAINER = 11

    @property
    def bit(self) -> int:
        """Its bit in the mask of Configure."""
        return 1 << (self.value - 1)

    @property
    def method(self) -> str:
        """Name of its own method, "PostCreateContainer"; up to 0.11 only some events have one."""
        return "".join(word.capitalize() for word in self.name.split("_"))


class State(enum.IntEnum):
    """States of a container."""

    UNKNOWN = 0
    CREATED = 1
    PAUSED = 2
    RUNNING = 3
    STOPPED = 4
