"""The manifests as people apply them: by kustomize or by helm."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import manifests, strictly
from rendering.manifests import CHART, FOLDER, NAMESPACE

import checkpointer.__main__
import installer.__main__
import nri_plugin.__main__
from installer import layouts

pytestmark = manifests.needs_renderers

PARSERS = {
    "zeropod-checkpointer": checkpointer.__main__._parse,
    "zeropod-installer": installer.__main__._parse,
    "zeropod-nri-plugin": nri_plugin.__main__.parse,
}

OVERLAYS = sorted(
    str(path.parent.relative_to(FOLDER))
    for path in FOLDER.rglob("kustomization.yaml")
    if "kind: Kustomization" in path.read_text()
)

INSTALLING = ("base", "gke", "k0s", "k3s", "kind", "microk8s", "production", "rke2")

SWITCHES = {
    "in-place-scaling": "inPlaceScaling",
    "metrics": "metrics",
    "own-node": "ownNode",
    "runtimeclass": "runtimeClass",
    "startup-taint": "startupTaint",
    "status-events": "statusEvents",
    "status-labels": "statusLabels",
}

OFF = dict.fromkeys(SWITCHES.values(), False)

CLUSTER_WIDE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "Namespace",
    "RuntimeClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def same(one: manifests.Objects, other: manifests.Objects) -> bool:
    """The chart leaves the namespace to helm."""
    one, other = dict(one), dict(other)
    one.pop(("Namespace", NAMESPACE), None)
    assert one.keys() == other.keys()
    for key in one:
        assert _ordered(one[key]) == _ordered(other[key])
    return True


def _ordered(thing: Any) -> Any:
    """Volumes and mounts by name: kustomize puts one that it has patched before the others."""
    if isinstance(thing, dict):
        return {
            key: sorted(map(_ordered, value), key=lambda one: one["name"])
            if key in ("volumes", "volumeMounts")
            else _ordered(value)
            for key, value in thing.items()
        }
    return [_ordered(one) for one in thing] if isinstance(thing, list) else thing


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_is_what_the_api_takes(name):
    """Every field of every object is one that the API has, of its type, and all required ones are there."""
    found = [
        problem
        for one in manifests.overlay(FOLDER / name).values()
        for problem in strictly.problems(one)
    ]

    assert found == []


def test_chart_is_what_the_api_takes():
    """Also with all that the chart can add."""
    rendered = manifests.chart(
        metrics=True, resourceQuota=True, uninstall=True, imagePullSecrets=[{"name": "one"}], directories={"opt": "/usr/zeropod"}
    )  # fmt: skip

    assert [problem for one in rendered.values() for problem in strictly.problems(one)] == []


def test_strictness_is_real():
    """What compares objects with the API finds what is wrong."""
    rendered = manifests.overlay(FOLDER / "production")
    daemon_set = rendered["DaemonSet", "zeropod-node"]
    spec = manifests.pod_spec(rendered)
    spec["hostPid"] = True
    spec["terminationGracePeriodSeconds"] = "60"
    spec["containers"][0]["volumeMounts"][0].pop("mountPath")
    del daemon_set["spec"]["selector"]

    found = " ".join(strictly.problems(daemon_set))

    for word in ("hostPid is not known", "'60'", "`mount_path`", "`selector`"):
        assert word in found


@pytest.mark.parametrize("name", [*INSTALLING, "uninstall", "gke/uninstall"])
def test_overlay_has_flags_that_programs_know(name):
    """Every program understands all flags that an overlay gives it."""
    for container in manifests.containers(manifests.overlay(FOLDER / name)):
        program, *words = container["command"]
        if container["name"] != "done":  # which only waits to be deleted
            PARSERS[program]([*words, *container["args"]])


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_is_in_its_namespace(name):
    """All that has a namespace is in ours."""
    for (kind, _), one in manifests.overlay(FOLDER / name).items():
        assert one["metadata"].get("namespace") == (None if kind in CLUSTER_WIDE else NAMESPACE)


@pytest.mark.parametrize("values", [{}, {"startupTaint": True, "uninstall": True}], ids=str)
def test_all_that_we_may_change_is_narrowed(values):
    """Whatever a role lets us write a policy narrows to the own node and to fields of ours."""
    rendered = manifests.chart(**values)
    operations = {"create": "CREATE", "update": "UPDATE", "patch": "UPDATE", "delete": "DELETE"}
    narrowed = {
        (operation, resource)
        for (kind, _), one in rendered.items()
        if kind == "ValidatingAdmissionPolicy"
        for rule in one["spec"]["matchConstraints"]["resourceRules"]
        for operation in rule["operations"]
        for resource in rule["resources"]
    }
    granted = {
        (operations[verb], resource)
        for (kind, _), one in rendered.items()
        if kind == "ClusterRole"
        for rule in one["rules"]
        for verb in rule["verbs"]
        if verb not in {"get", "list", "watch"}
        for resource in rule["resources"]
    }

    assert granted <= narrowed


def test_policies_bind():
    """Each is enforced by a binding, and concerns nobody but our own accounts."""
    rendered = manifests.chart()
    policies = {name for kind, name in rendered if kind == "ValidatingAdmissionPolicy"}
    bindings = [
        one["spec"]
        for (kind, _), one in rendered.items()
        if kind == "ValidatingAdmissionPolicyBinding"
    ]

    assert {one["policyName"] for one in bindings} == policies
    assert all(one["validationActions"] == ["Deny"] for one in bindings)
    for name in policies:
        spec = rendered["ValidatingAdmissionPolicy", name]["spec"]
        (condition,) = spec["matchConditions"]
        assert spec["failurePolicy"] == "Fail"
        assert condition["expression"].startswith("request.userInfo.username ")
        assert f"system:serviceaccount:{NAMESPACE}:zeropod-node" in condition["expression"]


@pytest.mark.parametrize("component", SWITCHES)
def test_chart_has_the_switches_of_the_components(component, tmp_path):
    """A switch of the chart makes the objects that a component makes, each alone."""
    by_kustomize = manifests.composed(tmp_path, ["base"], [f"components/{component}"])
    by_helm = manifests.chart(**{**OFF, SWITCHES[component]: True})

    assert same(by_kustomize, by_helm)


def test_chart_without_switches_is_the_base():
    """And with nothing switched on it is the base."""
    assert same(manifests.overlay(FOLDER / "base"), manifests.chart(**OFF))


def test_chart_is_production():
    """Its defaults are the overlay for production."""
    assert same(manifests.overlay(FOLDER / "production"), manifests.chart())


def test_chart_is_gke():
    """The chart can do what the overlay for GKE does."""
    values = {"resourceQuota": True, "directories": {"opt": "/var/lib/toolbox/zeropod"}}

    assert same(manifests.overlay(FOLDER / "gke"), manifests.chart(**values))


@pytest.mark.parametrize("name", ["k0s", "k3s", "microk8s", "rke2"])
def test_chart_is_any_distribution(name):
    """The chart can do what an overlay does whose containerd is elsewhere: where the installer's layout says."""
    (layout,) = [one for one in layouts.LAYOUTS if one.name == name]
    values = {"directories": {"containerd": str(Path(layout.socket).parent)}}

    assert same(manifests.overlay(FOLDER / name), manifests.chart(**values))


def test_chart_uninstalls(tmp_path):
    """Its switch adds the objects of the overlay that takes zeropod off the nodes."""
    (tmp_path / "both").mkdir()

    assert same(
        manifests.composed(tmp_path / "both", ["production", "uninstall"]), manifests.chart(uninstall=True)
    )  # fmt: skip


def test_chart_uninstalls_on_gke(tmp_path):
    """With the directory that was used there."""
    rendered = manifests.chart(
        uninstall=True, resourceQuota=True, directories={"opt": "/var/lib/toolbox/zeropod"}
    )

    assert same(manifests.composed(tmp_path, ["gke", "gke/uninstall"]), rendered)


def test_uninstallation_leaves_alone_what_runs():
    """It has no object in common with the installation: that goes on until its node is done."""
    assert (
        not manifests.overlay(FOLDER / "uninstall").keys()
        & manifests.overlay(FOLDER / "production").keys()
    )


def test_all_overlays_are_production_on_other_nodes():
    """What they have more or less is how the node is laid out; no overlay forgets a feature."""
    kinds = set(manifests.overlay(FOLDER / "production"))

    for name in ("gke", "k0s", "k3s", "kind", "microk8s", "rke2"):
        assert set(manifests.overlay(FOLDER / name)) - {("ResourceQuota", "zeropod-node")} == kinds


def test_image_of_the_chart_is_set_in_one_place():
    """Repository and tag reach every container; without a tag it is that of the chart's version."""
    own = manifests.containers(manifests.chart())
    other = manifests.containers(
        manifests.chart(image={"repository": "registry:5000/z", "tag": "7"})
    )
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]

    assert {one["image"] for one in own} == {f"ghcr.io/zeropod/zeropod:{version}"}
    assert {one["image"] for one in other} == {"registry:5000/z:7"}


@pytest.mark.parametrize(
    "values",
    [
        {"inplaceScaling": True},
        {"statusLabels": "yes"},
        {"image": {"repository": ""}},
        {"image": {"pullPolicy": "Sometimes"}},
        {"directories": {"opt": "opt/zeropod"}},
        {"checkpointerArgs": ["log-level=debug"]},
    ],
    ids=str,
)
def test_values_are_checked(values):
    """A value that is misspelled, or cannot be, is refused by the chart's schema."""
    with pytest.raises(ValueError, match="values don't meet the specifications"):
        manifests.chart(**values)


def test_chart_names_every_value_in_its_schema():
    """What can be set is what the schema knows."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert schema["properties"].keys() - {"global"} == values.keys()


def test_more_flags(tmp_path: Path):
    """Flags that the chart has no value for go to the program behind its own."""
    rendered = manifests.chart(
        installerArgs=["--restart=rc-service containerd restart"], pluginArgs=["--log-level=debug"], checkpointerArgs=["--workers=8"]
    )  # fmt: skip

    assert [one["args"][-1] for one in manifests.containers(rendered)] == [
        "--restart=rc-service containerd restart",
        "--log-level=debug",
        "--workers=8",
    ]
