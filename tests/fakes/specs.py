"""An OCI spec as containerd stores it for an ordinary container."""

from nri_plugin import refusals

CALLS = sorted({name for group in refusals.SUPERVISOR_CALLS for name in group} - {"clone"})

ORDINARY = {
    "ociVersion": "1.2.0",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["redis-server", "--save", ""],
        "env": ["PATH=/usr/bin:/bin"],
        "cwd": "/data",
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
        },
        "oomScoreAdj": 1000,
    },
    "root": {"path": "rootfs"},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "annotations": {"io.kubernetes.cri.container-type": "container"},
    "linux": {
        "namespaces": [
            {"type": "pid"},
            {"type": "mount"},
            {"type": "network", "path": "/proc/183/ns/net"},
        ],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": CALLS, "action": "SCMP_ACT_ALLOW"},
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}],
                },
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            ],
        },
    },
    "x-of-the-future": {"kept": [1, 2.5, None, 18446744073709551615]},
}
