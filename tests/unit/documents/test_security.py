"""docs/security.md says what the manifests give: rights that are added there have to be explained here."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
ROWS = {
    line.split("|")[1].strip().partition(" (")[0]: line
    for line in (ROOT / "docs/security.md").read_text().splitlines()
    if line.startswith("|")
}
DAEMONSET = yaml.safe_load((ROOT / "manifests/base/daemonset.yaml").read_text())
POD = DAEMONSET["spec"]["template"]["spec"]
CONTAINERS = {one["name"]: one for one in POD["initContainers"] + POD["containers"]}
PATHS = {one["name"]: one.get("hostPath", {}).get("path") for one in POD["volumes"]}
NAMES = {"/run/containerd": "containerd's socket"}


@pytest.mark.parametrize("name", CONTAINERS)
def test_rights_and_mounts_of_a_container_are_told(name):
    """Its capabilities by name, and every directory of the node that it sees."""
    row, container = ROWS[name], CONTAINERS[name]
    security = container["securityContext"]
    assert ("privileged" in row) is bool(security.get("privileged"))
    for capability in security.get("capabilities", {}).get("add", []):
        assert capability in row
    for mount in container["volumeMounts"]:
        if path := PATHS[mount["name"]]:
            assert NAMES.get(path, path) in row


def test_every_container_has_a_row():
    """And those that are read-only are so."""
    assert CONTAINERS.keys() <= ROWS.keys()
    assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in CONTAINERS.values())
    assert POD["hostPID"]
    assert "hostNetwork" not in POD


@pytest.mark.parametrize(("folder", "name"), [("base", "installer"), ("uninstall", "uninstaller")])
def test_rights_in_the_cluster_are_told(folder, name):
    """Each resource with its verbs."""
    documents = yaml.safe_load_all((ROOT / f"manifests/{folder}/rbac.yaml").read_text())
    (role,) = [one for one in documents if one["kind"] == "ClusterRole"]
    told = "; ".join(
        f"{', '.join(rule['resources'])}: {', '.join(rule['verbs'])}" for rule in role["rules"]
    )

    assert told in ROWS[name]
