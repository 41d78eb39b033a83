"""A cluster with two nodes, some pods, and a user who may do everything until it is taken away."""

from __future__ import annotations

import pytest
from fakes.apiserver import ApiServer
from fakes.pods import pod

from kubectl_zeropod import __main__ as program


@pytest.fixture
def api():
    """The cluster's API server."""
    server = ApiServer()
    with server.serving():
        for number in (1, 2):
            labels = {"zeropod.ctrox.dev/node": "true"}
            server.put("nodes", {"metadata": {"name": f"node-{number}", "labels": labels}})
            server.put(
                "pods",
                pod(
                    f"zeropod-node-{number}",
                    namespace="zeropod-system",
                    node=f"node-{number}",
                    labels={"app.kubernetes.io/name": "zeropod"},
                    containers=[{"name": "nri-plugin"}, {"name": "checkpointer"}],
                ),
            )
        yield server


@pytest.fixture
def run(api, tmp_path, capsys):
    """Run the plugin as the user would: (exit code, stdout, stderr)."""
    config = api.kubeconfig(tmp_path / "config")

    def call(*words):
        code = program.main(["--kubeconfig", str(config), *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call
