"""What becomes of containerd's configuration, layout by layout; the expected files are in tests/unit/installer/golden."""

import tomllib
from pathlib import Path

import pytest
from unit.installer.fake_nodes import Node, found, plain

from installer import containerd, layouts, toml
from installer.errors import InstallError

GOLDEN = Path(__file__).parent / "golden"

RUNC = """\
# of our administrator
version = 2
oom_score = -999

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.k8s.io/pause:3.9"   # pinned
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
        pod_annotations = ["example.org/*"]
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
          SystemdCgroup = true
          BinaryName = "/usr/sbin/runc"
"""

NRI_OFF = """\
version = 2

[plugins."io.containerd.nri.v1.nri"]
  disable = true  # default of 1.7
  plugin_path = "/opt/nri/plugins"
"""

V3 = """\
version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = true
[plugins.'io.containerd.nri.v1.nri']
  disable = true
  disable_connections = true
"""

KIND = """\
version = 2

[proxy_plugins]
[proxy_plugins."fuse-overlayfs"]
  type = "snapshot"
  address = "/run/containerd-fuse-overlayfs.sock"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
# The product's uuid is mounted into every container.
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "/etc/containerd/cri-base.json"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test-handler]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "/etc/containerd/cri-base.json"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = false
"""

IMPORTS = 'imports = ["/etc/containerd/conf.d/*.toml"]\n'

RENDERED = """\
version = 3
root = "/var/lib/rancher/k3s/agent/containerd"
{imports}
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = true
"""

K3S = "/var/lib/rancher/k3s/agent/etc/containerd"


def rancher(root, *, imports="", old=False, **files):
    rendered = RENDERED.replace("{imports}", imports)
    if old:
        rendered = rendered.replace("version = 3", "version = 2").replace(
            "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"
        )
    node = Node(Path(root), active=("k3s-agent",)).put(f"{K3S}/config.toml", rendered)
    for name, text in files.items():
        node.put(f"{K3S}/{name.replace('_', '.').replace('..', '-')}", text)
    return node


NODES = {
    "containerd-1.7": lambda root: plain(root, config=RUNC),
    "containerd-1.7-nri-off": lambda root: plain(root, config=NRI_OFF),
    "containerd-1.7-no-file": plain,
    "containerd-2.1": lambda root: plain(root, "2.1.9", V3),
    "containerd-2.3": lambda root: plain(root, "2.3.4", V3),
    "containerd-2.3-no-file": lambda root: plain(root, "2.3.4"),
    "containerd-2.3-imports": lambda root: plain(
        root, "2.3.4", IMPORTS + V3.partition("[plugins.'io.containerd.nri")[0]
    ),
    "containerd-2.1-kind": lambda root: plain(root, "2.1.3", KIND),
    "containerd-1.7-kind": lambda root: plain(root, "1.7.24", KIND),
    "k3s-old": lambda root: rancher(root, old=True),
    "k3s-template": lambda root: rancher(root, config__v3_toml_tmpl="# mine\n" + containerd.BASE),
    "k3s": rancher,
    "k3s-drop-in": lambda root: rancher(
        root, imports=f'imports = ["{K3S}/config-v3.toml.d/*.toml"]'
    ),
    "rke2": lambda root: Node(Path(root)).put(
        "/var/lib/rancher/rke2/agent/etc/containerd/config.toml", RENDERED.replace("{imports}", "")
    ),
    "k0s": lambda root: Node(Path(root)).put("/etc/k0s/containerd.toml", "version = 2\n"),
    "microk8s": lambda root: Node(Path(root)).put(
        "/var/snap/microk8s/current/args/containerd-template.toml",
        RUNC + '[stream]\nroot = "${SNAP_COMMON}"\n',
    ),
}


def written(node):
    layout = layouts.find(node)
    changes = containerd.install(layout, found(node, layout))
    for change in changes:
        node.write(change.path, change.after)
    return layout, changes


@pytest.mark.parametrize("name", NODES)
def test_an_installation_writes_what_was_expected(name, tmp_path):
    """One file is written, and it is the golden one, to the byte."""
    node = NODES[name](tmp_path)
    _, changes = written(node)

    assert len(changes) == 1
    assert f"{changes[0].path}\n{changes[0].after}" == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", NODES)
def test_a_second_installation_changes_nothing(name, tmp_path):
    """So that containerd is not restarted by every start of the pod."""
    node = NODES[name](tmp_path)
    layout, _ = written(node)

    assert containerd.install(layout, found(node, layout)) == []


@pytest.mark.parametrize("name", ["k3s", "k3s-old"])
def test_a_template_that_was_rendered_changes_nothing_either(name, tmp_path):
    """Our own lines are in what is looked at then."""
    node = NODES[name](tmp_path)
    layout, (change,) = written(node)
    base = node.read(layout.rendered)
    node.put(layout.rendered, change.after.replace(containerd.BASE, base))

    assert containerd.install(layout, found(node, layout)) == []


@pytest.mark.parametrize("name", NODES)
def test_an_uninstallation_leaves_the_node_as_it_was(name, tmp_path):
    """To the byte."""
    node = NODES[name](tmp_path)
    before = node.files()
    layout, _ = written(node)
    for change in containerd.uninstall(layout, found(node, layout)):
        if change.after is None:
            node.remove(change.path)
        else:
            node.write(change.path, change.after)

    assert node.files() == before


@pytest.mark.parametrize("name", NODES)
def test_every_line_that_was_there_is_still_there(name, tmp_path):
    """Comments and order too; only a value of NRI's may have another behind it."""
    node = NODES[name](tmp_path)
    _, (change,) = written(node)
    after = change.after.splitlines()
    for line in (change.before or "").splitlines():
        key, _, value = line.partition(" = ")
        assert line in after or f"{key} = false {toml.WAS}{value}" in after


def test_what_others_write_meanwhile_survives_the_uninstallation(tmp_path):
    """No backup is put back over it."""
    node = plain(tmp_path, config=NRI_OFF)
    layout, _ = written(node)
    node.put(layout.config, "# new\n" + node.read(layout.config) + "[timeouts]\n  x = '1s'\n")
    (change,) = containerd.uninstall(layout, found(node, layout))

    assert change.after == "# new\n" + NRI_OFF + "[timeouts]\n  x = '1s'\n"


def test_the_new_runtime_is_runc_as_the_node_has_it(tmp_path):
    """A pod that only changes its name must not change its cgroup driver."""
    node = plain(tmp_path, config=RUNC)
    written(node)
    runtimes = tomllib.loads(node.read("/etc/containerd/config.toml"))["plugins"][
        "io.containerd.grpc.v1.cri"
    ]["containerd"]["runtimes"]

    assert runtimes["zeropod"] == runtimes["runc"]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("version = 1\n", "config migrate"),
        ("[plugins]\n", "config migrate"),
        ("version = 2\nplugins = {}\n", "make it say the following yourself"),
        ("version = 2\n[plugins]\n'io.containerd.nri.v1.nri' = { disable = true }\n", "yourself"),
        ("version = 2\nno toml\n", "mend it"),
        ("version = 2\ndisabled_plugins = ['io.containerd.nri.v1.nri']\n", "take it out there"),
        (
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.zeropod]\nx = 1\n",
            "uninstall it first",
        ),
    ],
)
def test_an_odd_configuration_is_left_alone(config, told, tmp_path):
    """With what to do."""
    with pytest.raises(InstallError, match=told):
        written(plain(tmp_path, config=config))


def test_an_older_edit_is_taken_out_when_containerd_merges_a_directory(tmp_path):
    """After an upgrade from 1.7 to 2.3."""
    node = plain(tmp_path, config=IMPORTS + RUNC)
    written(node)
    node.put("/version", "containerd github.com/containerd/containerd/v2 v2.3.4 abc")
    _, changes = written(node)

    assert [change.path for change in changes] == [
        "/etc/containerd/conf.d/zeropod.toml",
        "/etc/containerd/config.toml",
    ]
    assert node.read("/etc/containerd/config.toml") == IMPORTS + RUNC


def test_a_directory_that_is_not_imported_is_not_used(tmp_path):
    """Even 2.3 reads it only if its configuration says so; ours of a time when it did is taken away."""
    node = plain(tmp_path, "2.3.4", IMPORTS + V3)
    written(node)
    node.put("/etc/containerd/config.toml", V3)
    layout = layouts.find(node)
    changes = containerd.install(layout, found(node, layout))

    assert [(change.path, change.after is None) for change in changes] == [
        ("/etc/containerd/config.toml", False),
        ("/etc/containerd/conf.d/zeropod.toml", True),
    ]


def test_what_another_merged_file_says_of_runc_holds_for_our_runtime(tmp_path):
    """Such as kubeadm's cgroup driver."""
    node = plain(tmp_path, "2.3.4", "version = 2\n" + IMPORTS)
    key = 'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc'
    node.put(
        "/etc/containerd/conf.d/10-driver.toml",
        f'version = 2\n[{key}]\n  runtime_type = "io.containerd.runc.v2"\n[{key}.options]\n  SystemdCgroup = true\n',
    )
    _, (change,) = written(node)

    assert change.path.endswith("conf.d/zeropod.toml")
    assert "SystemdCgroup = true" in change.after


def test_runc_is_named_where_naming_another_would_take_it_away(tmp_path):
    """1.7 has it by default only as long as there are no others (its CRI does not start without)."""
    node = plain(tmp_path, config=NRI_OFF)
    written(node)
    cri = tomllib.loads(node.read("/etc/containerd/config.toml"))["plugins"][
        "io.containerd.grpc.v1.cri"
    ]

    assert set(cri["containerd"]["runtimes"]) == {"runc", "zeropod"}


@pytest.mark.parametrize(
    ("dump", "told"),
    [
        ("[plugins.'io.containerd.nri.v1.nri']\ndisable = true\n", "NRI is still disabled"),
        ("[plugins.'io.containerd.nri.v1.nri']\ndisable_connections = true\n", "NRI is still"),
        (
            "[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'runc'\n"
            "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.zeropod]\n",
            "there is no runtime runc",
        ),
        (
            "[plugins.'io.containerd.grpc.v1.cri'.containerd]\ndefault_runtime_name = 'runc'\n"
            "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\n",
            "there is no runtime zeropod",
        ),
        ("", ""),
    ],
)
def test_containerds_own_view_of_its_configuration_is_judged(dump, told):
    """What imported files do to it cannot be told from outside."""
    assert told in containerd.problem(dump)
    assert bool(told) == bool(containerd.problem(dump))


def test_a_plugin_that_did_not_start_is_found():
    """A containerd without CRI listens all the same."""
    listing = """\
TYPE                            ID          PLATFORMS      STATUS
io.containerd.snapshotter.v1    zfs         linux/amd64    skip
io.containerd.snapshotter.v1    devmapper   linux/amd64    error
io.containerd.grpc.v1           cri         linux/amd64    error
io.containerd.nri.v1            nri         -              ok
"""
    assert containerd.broken(listing) == ["io.containerd.grpc.v1.cri"]
    assert containerd.broken(listing.replace("error", "ok")) == []


def test_the_socket_that_a_configuration_names_is_the_one_that_counts(tmp_path):
    """Not the default."""
    node = plain(tmp_path, "2.1.9", V3 + "socket_path = '/run/other.sock'\n")
    assert containerd.socket(found(node, layouts.find(node))) == "/run/other.sock"


@pytest.mark.parametrize(("name", "expected"), [(n, n.split("-")[0]) for n in NODES])
def test_the_layout_is_found(name, expected, tmp_path):
    """By what is on the node."""
    assert layouts.find(NODES[name](tmp_path)).name == expected


def test_a_node_without_containerd_is_told(tmp_path):
    """It is the mount that is wrong, most often."""
    with pytest.raises(InstallError, match="--host-root"):
        layouts.find(Node(tmp_path))
    with pytest.raises(InstallError, match="'crio' is not known"):
        layouts.find(Node(tmp_path), "crio")
