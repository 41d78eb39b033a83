"""The manifests as they are written, before anything is rendered."""

import re
from pathlib import Path

import pytest
import yaml

import checkpointer.__main__
import installer.__main__
import nri_plugin.__main__

MANIFESTS = Path(__file__).parents[3] / "manifests"

PARSERS = {
    "zeropod-checkpointer": checkpointer.__main__._parse,
    "zeropod-installer": installer.__main__._parse,
    "zeropod-nri-plugin": nri_plugin.__main__.parse,
}


def daemonset() -> dict:
    return yaml.safe_load((MANIFESTS / "base/daemonset.yaml").read_text())


def containers() -> list[dict]:
    pod = daemonset()["spec"]["template"]["spec"]
    return [*pod["initContainers"], *pod["containers"]]


@pytest.mark.parametrize("container", containers(), ids=lambda one: one["name"])
def test_flags(container):
    """Every program understands the flags that the base gives it."""
    program, *words = container["command"]

    PARSERS[program]([*words, *container["args"]])


def test_there_is_one_daemon_on_each_node_that_has_the_label():
    """An upgrade ends the old one first; no node is too full for it; installer, plugin and daemon are apart."""
    spec = daemonset()["spec"]
    pod = spec["template"]["spec"]

    assert daemonset()["metadata"]["name"] == "zeropod-node"
    assert spec["updateStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert pod["nodeSelector"]["zeropod.ctrox.dev/node"] == "true"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    assert [one["name"] for one in containers()] == ["installer", "nri-plugin", "checkpointer"]
    assert all(one["resources"]["requests"].keys() == {"cpu", "memory"} for one in containers())


def test_ready_is_who_can_wake_pods():
    """Readiness asks for just that, and a wake that is not possible is no reason for a restart."""
    (daemon,) = [one for one in containers() if one["name"] == "checkpointer"]
    paths = {kind: daemon[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")}

    assert paths == {"readiness": "/readyz", "liveness": "/healthz"}


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("components/metrics/podmonitor.yaml", ("podMetricsEndpoints",)),
        ("base/networkpolicy.yaml", ("ingress", 0, "ports")),
    ],
)
def test_what_is_asked_for_metrics_is_there(path, where):
    """Of both only the name of a port tells, and the API knows of neither whether there is one, nor of the pods."""
    found = yaml.safe_load((MANIFESTS / path).read_text())["spec"]
    selected = found.get("selector") or found["podSelector"]
    for key in where:
        found = found[key]
    base = yaml.safe_load((MANIFESTS / "base/kustomization.yaml").read_text())
    ports = {port["name"] for one in containers() for port in one.get("ports", ())}

    assert {one["port"] for one in found} == ports == {"metrics"}
    assert base["labels"] == [{"pairs": selected["matchLabels"], "includeTemplates": True}]


def test_image_is_named_once():
    """All containers have one image, whose name is in one file for kustomize and one of the chart."""
    named = [
        path
        for path in MANIFESTS.rglob("*")
        if path.is_file() and "ghcr.io/zeropod" in path.read_text()
    ]

    assert {one["image"] for one in containers()} == {"zeropod"}
    assert sorted(str(path.relative_to(MANIFESTS)) for path in named) == [
        "components/dev-image/kustomization.yaml", "components/image/kustomization.yaml", "helm/zeropod/values.yaml",
    ]  # fmt: skip


def test_image_has_our_version():
    """Base and chart run the version that they are of."""
    project = (MANIFESTS.parent / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)[1]
    (image,) = yaml.safe_load((MANIFESTS / "components/image/kustomization.yaml").read_text())[
        "images"
    ]
    chart = yaml.safe_load((MANIFESTS / "helm/zeropod/Chart.yaml").read_text())

    assert (image["newTag"], chart["appVersion"], chart["version"]) == (version, version, version)


def test_mounts_have_volumes():
    """Nothing is mounted that there is no volume of, and no volume is there for nobody."""
    volumes = {one["name"] for one in daemonset()["spec"]["template"]["spec"]["volumes"]}

    assert {mount["name"] for one in containers() for mount in one["volumeMounts"]} == volumes


def test_only_what_has_to_be_is_privileged():
    """The plugin gets along with a list of capabilities; nothing may write to its image's files."""
    contexts = {one["name"]: one["securityContext"] for one in containers()}

    assert {name for name, one in contexts.items() if one.get("privileged")} == {
        "installer",
        "checkpointer",
    }
    assert contexts["nri-plugin"]["capabilities"]["drop"] == ["ALL"]
    assert all(one["readOnlyRootFilesystem"] for one in contexts.values())


def test_the_plugin_writes_only_what_it_tells():
    """To speak to a socket needs no write access to its directory; what it tells is the daemon's to read."""
    (plugin,) = [one for one in containers() if one["name"] == "nri-plugin"]

    assert [one["mountPath"] for one in plugin["volumeMounts"] if not one.get("readOnly")] == [
        "/run/zeropod"
    ]


def test_the_plugin_has_no_token():
    """Who answers for every container that starts has no way to the API."""
    with_token = {
        one["name"]
        for one in containers()
        if "token" in [mount["name"] for mount in one["volumeMounts"]]
    }

    assert with_token == {"installer", "checkpointer"}
    assert daemonset()["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_readme_installs_as_getting_started_does():
    """Whose commands are run by a test; the README has the overlay for production in them."""
    readme, document = (
        (MANIFESTS.parent / name).read_text() for name in ("README.md", "docs/getting-started.md")
    )
    section = readme.split("\n## Install it\n", 1)[1].split("\n## ", 1)[0]
    commands = [line for line in section.splitlines() if line.startswith("$ ")]

    assert commands
    for command in commands:
        assert command.replace("manifests/production", "manifests/kind") in document.splitlines()
