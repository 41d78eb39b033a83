"""Which containers must stay plain, judged from specs as containerd stores them."""

import copy
import json
import pathlib

import pytest
from fakes import specs

from nri_plugin import injection, refusals
from nri_plugin.seccomp import without

HOST = refusals.Host()

SPEC = specs.ORDINARY
DEFAULT_CALLS = specs.CALLS


def spec(**process):
    changed = copy.deepcopy(SPEC)
    changed["process"].update(process)
    return changed


def linux(**changes):
    changed = copy.deepcopy(SPEC)
    changed["linux"].update(changes)
    return changed


def seccomp(**changes):
    return linux(seccomp={**SPEC["linux"]["seccomp"], **changes})


def namespaces(*listed):
    return linux(namespaces=[{"type": "network", "path": "/n"}, {"type": "pid"}, *listed])


def test_an_ordinary_container_is_accepted():
    """The default profile, with its conditional clone and refused clone3."""
    assert refusals.find(SPEC, HOST) == ""


@pytest.mark.parametrize(
    "accepted",
    [
        linux(seccomp=None),
        seccomp(defaultAction="SCMP_ACT_ALLOW", syscalls=None),
        seccomp(defaultAction="SCMP_ACT_LOG", syscalls=[]),
        # close_range is tried first, but old profiles have only the other.
        seccomp(
            syscalls=[
                {"names": [*DEFAULT_CALLS, "clone"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["nonexistent"], "action": "SCMP_ACT_KILL"},
            ]
        ),
        seccomp(
            defaultAction="SCMP_ACT_ALLOW",
            syscalls=[
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 0, "value": 268435456, "op": "SCMP_CMP_MASKED_EQ"}],
                }
            ],
        ),
        spec(apparmorProfile="cri-containerd.apparmor.d"),
        spec(apparmorProfile="unconfined"),
        spec(capabilities=None),
        spec(capabilities={"bounding": None}),
        spec(terminal=False),
        spec(args=["/usr/bin/init"]),
    ],
)
def test_harmless_variations_are_accepted(accepted):
    """No profile, an open one, one that forbids namespaces, default confinement, no capabilities."""
    assert refusals.find(accepted, HOST) == ""


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (spec(capabilities={"bounding": ["CAP_SYS_ADMIN"]}), "CAP_SYS_ADMIN"),
        (spec(capabilities={"ambient": ["CAP_SYS_PTRACE"]}), "CAP_SYS_PTRACE"),
        (spec(capabilities={"permitted": ["CAP_SYS_MODULE"]}), "CAP_SYS_MODULE"),
        (spec(capabilities={"effective": ["CAP_SYS_RAWIO"]}), "CAP_SYS_RAWIO"),
        (spec(capabilities={"inheritable": ["CAP_DAC_READ_SEARCH"]}), "CAP_DAC_READ_SEARCH"),
        (spec(capabilities={"bounding": ["CAP_BPF"]}), "CAP_BPF"),
        (spec(capabilities={"bounding": [*refusals.DANGEROUS, "CAP_CHOWN"]}), "privileged"),
        (linux(namespaces=[{"type": "pid"}]), "hostNetwork"),
        (linux(namespaces=[{"type": "network", "path": "/n"}]), "hostPID"),
        (
            linux(
                namespaces=[
                    {"type": "network", "path": "/n"},
                    {"type": "pid", "path": "/proc/1/p"},
                ]
            ),
            "shareProcessNamespace",
        ),
        (namespaces({"type": "user", "path": "/u"}), "user namespace"),
        (
            linux(uidMappings=[{"containerID": 0, "hostID": 65536, "size": 65536}]),
            "user namespace",
        ),
        (spec(terminal=True), "tty"),
        (spec(apparmorProfile="k8s-tight"), "k8s-tight"),
        (seccomp(syscalls=[]), "seccomp profile forbids clone"),
        (seccomp(listenerPath="/run/agent.sock"), "agent"),
        (
            seccomp(
                syscalls=[
                    {
                        "names": sorted({*DEFAULT_CALLS, "clone"} - {"setsid"}),
                        "action": "SCMP_ACT_ALLOW",
                    }
                ]
            ),
            "setsid",
        ),
        (
            seccomp(
                defaultAction="SCMP_ACT_ALLOW",
                syscalls=[{"names": ["prctl"], "action": "SCMP_ACT_ERRNO"}],
            ),
            "prctl",
        ),
        (
            seccomp(
                defaultAction="SCMP_ACT_ALLOW",
                syscalls=[{"names": ["close_range", "prlimit64"], "action": "SCMP_ACT_NOTIFY"}],
            ),
            "close_range and prlimit64",
        ),
        (spec(args=[]), "no program"),
        (spec(args=["/sbin/init"]), "PID 1"),
        ({**SPEC, "mounts": [{"destination": "/.zeropod/"}]}, "volume of its own"),
    ],
)
def test_dangerous_or_impossible_containers_are_refused(refused, said):
    """Each refusal names what is in the way."""
    assert said in refusals.find(refused, HOST)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (refusals.Host(runtime="io.containerd.runsc.v1"), "runsc"),
        (refusals.Host(network=True), "hostNetwork"),
    ],
)
def test_what_the_spec_does_not_say_counts_too(host, said):
    """The runtime's name, and whose network namespace it is that the spec names by path."""
    assert said in refusals.find(SPEC, host)


def test_the_injection_changes_three_things():
    """Args, one mount, one annotation: golden; all else is as it was, unknown fields included."""
    changed = injection.rewrite(SPEC, pathlib.Path("/opt/zeropod/container"))
    expected = copy.deepcopy(SPEC)
    expected["process"]["args"] = ["/.zeropod/init", "--", "redis-server", "--save", ""]
    expected["mounts"].append(
        {
            "destination": "/.zeropod",
            "type": "bind",
            "source": "/opt/zeropod/container",
            "options": ["rbind", "ro", "nosuid", "nodev", "rprivate"],
        }
    )
    expected["annotations"]["injected.zeropod.ctrox.dev/args"] = '["redis-server", "--save", ""]'
    assert changed == expected
    assert json.loads(json.dumps(changed)) == expected


def test_the_injection_takes_system_calls_away():
    """Where some are named: the seccomp profile is the fourth thing that changes."""
    calls = ["io_uring_setup"]
    changed = injection.rewrite(SPEC, pathlib.Path("/x"), denied=calls)
    assert changed["linux"]["seccomp"] == without(SPEC["linux"]["seccomp"], calls)
    bare = {**SPEC, "linux": None}
    assert "seccomp" in injection.rewrite(bare, pathlib.Path("/x"), denied=calls)["linux"]
    assert injection.rewrite(bare, pathlib.Path("/x"))["linux"] is None


def test_the_injection_leaves_its_input_alone():
    """Pure: the spec that was read can still be compared or sent."""
    before = json.dumps(SPEC)
    injection.rewrite(SPEC, pathlib.Path("/x"))
    assert json.dumps(SPEC) == before


def test_a_spec_without_mounts_and_annotations_can_be_injected():
    """Null and absent are both empty to the runtime."""
    bare = {**SPEC, "mounts": None, "annotations": None}
    changed = injection.rewrite(bare, pathlib.Path("/x"))
    assert len(changed["mounts"]) == len(changed["annotations"]) == 1


DIRECTORY = pathlib.Path("/opt/zeropod/container")


def test_an_injected_spec_is_recognised():
    """By its mark, its args and its mount together; the original args come back."""
    changed = injection.rewrite(SPEC, DIRECTORY)
    assert injection.present(changed, DIRECTORY)
    assert not injection.present(SPEC, DIRECTORY)
    args, marks = changed["process"]["args"], changed["annotations"]
    mounts = [(mount["destination"], mount["source"]) for mount in changed["mounts"]]
    assert injection.original(args, marks, mounts, DIRECTORY) == SPEC["process"]["args"]


@pytest.mark.parametrize("missing", ["args", "mark", "mount", "source"])
def test_an_image_that_imitates_us_is_not_ours(missing):
    """A path below /.zeropod in an image, a mark, a volume of one's own: none is enough."""
    changed = injection.rewrite(SPEC, DIRECTORY)
    if missing == "args":
        changed["process"]["args"] = SPEC["process"]["args"]
    elif missing == "mark":
        del changed["annotations"][injection.MARK]
    elif missing == "mount":
        changed["mounts"].pop()
    else:
        changed["mounts"][-1]["source"] = "/var/lib/kubelet/pods/u/volumes/evil"
    assert not injection.present(changed, DIRECTORY)
