"""How the API server is found, and that nothing is started for it."""

from __future__ import annotations

import json

import pytest

from checkpointer.errors import CheckpointerError
from checkpointer.kubernetes import errors
from checkpointer.kubernetes.client import Client


def test_a_kubeconfig_is_enough(server, tmp_path):
    """Its address and its token."""
    client = Client.of(server.kubeconfig(tmp_path / "config"))
    client.request("GET", "/api/v1/pods", verb="list", resource="pods")

    assert client.counts == {("list", "pods", "200"): 1}


def test_credentials_from_a_program_are_refused(server, tmp_path):
    """This process must not fork."""
    path = server.kubeconfig(tmp_path / "config")
    config = json.loads(path.read_text())
    config["users"][0]["user"] = {"exec": {"command": "aws"}}
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointerError, match="must not start any"):
        Client.of(path)


@pytest.mark.parametrize("text", ["", "{", "apiVersion: v1"])
def test_what_is_no_kubeconfig_is_told(tmp_path, text):
    """With the flag."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(CheckpointerError, match="--kubeconfig"):
        Client.of(path)


def test_outside_of_a_cluster_there_is_no_service_account():
    """And the reason names what was looked for."""
    with pytest.raises(CheckpointerError, match="service account"):
        Client.of(None)


def test_nobody_there_is_an_error_of_ours(client, server):
    """And is counted."""
    client._configuration.host = "http://127.0.0.1:1"
    with pytest.raises(errors.Unreachable):
        client.request("GET", "/api/v1/pods", verb="list", resource="pods")
    assert client.counts == {("list", "pods", "error"): 1}


def test_an_answer_that_is_no_json_is_an_error_of_ours(client, server):
    """Of a proxy, say."""

    def trouble(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "6")
        handler.end_headers()
        handler.wfile.write(b"<html>")
        return True

    server.trouble = trouble
    with pytest.raises(errors.Unreachable, match="no JSON"):
        client.request("GET", "/api/v1/pods", verb="list", resource="pods")
