"""Kubernetes is built as it was released."""

from __future__ import annotations

from dev.lib import kubernetes

RELEASED = """\
// Comments come first.
module k8s.io/kubernetes

go 1.25.0

require (
\tgithub.com/blang/semver/v4 v4.0.0
\t// not a version
\tk8s.io/api v0.0.0
)

require (
\tgolang.org/x/net v0.47.0 // indirect
)

replace (
\tk8s.io/api => ./staging/src/k8s.io/api
\tk8s.io/kubelet => ./staging/src/k8s.io/kubelet
)
"""


def test_staging_modules_are_those_of_the_release() -> None:
    """What a release replaces by its own folders comes from the proxy, in the version of that release."""
    lines = kubernetes.wrapper(RELEASED, "1.35.4").splitlines()

    assert "go 1.25.0" in lines
    assert "require k8s.io/kubernetes v1.35.4" in lines
    assert "replace k8s.io/api => k8s.io/api v0.35.4" in lines
    assert "replace k8s.io/kubelet => k8s.io/kubelet v0.35.4" in lines


def test_dependencies_are_pinned() -> None:
    """Other modules are those that it was released with; what has no version of its own is not asked for."""
    lines = kubernetes.wrapper(RELEASED, "1.35.4").splitlines()

    assert "require github.com/blang/semver/v4 v4.0.0" in lines
    assert "require golang.org/x/net v0.47.0" in lines
    assert not [line for line in lines if line.endswith("v0.0.0")]
