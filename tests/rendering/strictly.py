"""Objects compared with the API's own description of them, as the official client carries it."""

from __future__ import annotations

import re
from typing import Any

from kubernetes.client import models

PRIMITIVES = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "object": object,
    "datetime": str,
}

KINDS = {
    "ConfigMap": models.V1ConfigMap,
    "ClusterRole": models.V1ClusterRole,
    "ClusterRoleBinding": models.V1ClusterRoleBinding,
    "DaemonSet": models.V1DaemonSet,
    "Deployment": models.V1Deployment,
    "Namespace": models.V1Namespace,
    "NetworkPolicy": models.V1NetworkPolicy,
    "PersistentVolumeClaim": models.V1PersistentVolumeClaim,
    "ResourceQuota": models.V1ResourceQuota,
    "Role": models.V1Role,
    "RoleBinding": models.V1RoleBinding,
    "RuntimeClass": models.V1RuntimeClass,
    "Secret": models.V1Secret,
    "Service": models.V1Service,
    "ServiceAccount": models.V1ServiceAccount,
    "StatefulSet": models.V1StatefulSet,
    "ValidatingAdmissionPolicy": models.V1ValidatingAdmissionPolicy,
    "ValidatingAdmissionPolicyBinding": models.V1ValidatingAdmissionPolicyBinding,
}

FOREIGN = {"PodMonitor", "PrometheusRule"}
"""Of the Prometheus operator."""


def problems(thing: dict[str, Any]) -> list[str]:
    """Return what the API server would not take: unknown fields, wrong types, required ones that are missing."""
    if thing["kind"] in FOREIGN:
        return []
    return _problems(thing, KINDS[thing["kind"]].__name__, thing["kind"])


def _problems(value: Any, kind: str, where: str) -> list[str]:
    if found := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [
            p for n, item in enumerate(value) for p in _problems(item, found[1], f"{where}[{n}]")
        ]
    if found := re.fullmatch(r"dict\(str, (.+)\)", kind) or re.fullmatch(
        r"dict\[str, (.+)\]", kind
    ):
        if not isinstance(value, dict):
            return [f"{where} is no map"]
        # The client says "str" for quantities, which may be numbers as well.
        return [
            p
            for key, item in value.items()
            if not _quantity(where, item)
            for p in _problems(item, found[1], f"{where}.{key}")
        ]
    if kind in PRIMITIVES:
        right = isinstance(value, PRIMITIVES[kind]) and not (
            kind == "int" and isinstance(value, bool)
        )
        return [] if right else [f"{where} is no {kind}: {value!r}"]
    model = getattr(models, kind)
    if model.__name__ == "IntstrIntOrString":
        return []
    if not isinstance(value, dict):
        return [f"{where} is no object: {value!r}"]
    names = {json: python for python, json in model.attribute_map.items()}
    told = [f"{where}.{key} is not known" for key in value if key not in names]
    for key, item in value.items():
        if key in names:
            told += _problems(item, model.openapi_types[names[key]], f"{where}.{key}")
    try:
        model(**{names[key]: item for key, item in value.items() if key in names})
    except ValueError as error:  # a required field, or a value that is none of an enumeration
        told.append(f"{where}: {error}")
    return told


def _quantity(where: str, value: Any) -> bool:
    return isinstance(value, (int, float)) and where.endswith(("requests", "limits", "hard"))
