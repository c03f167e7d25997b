"""What the manifests may hold: the fields that they use of KubeRay 1.5 or later and of Kubernetes.

Written by hand from the operator's documentation of its types; a field that is not here is an
error, as it is to an API server that validates strictly. `RL_KUBERAY_CRDS` names a directory with
the operator's own CRD files, against which the tests then check as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Shape = Any
"""A dict of fields ("name!" is required), [shape of the entries], a type, or a check."""


def words(*allowed: str) -> Callable[[Any], bool]:
    return lambda value: value in allowed


def quantity(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"\d+(m|Ki|Mi|Gi|Ti)?", value))


def dns_name(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", value))


def amount(value: Any) -> bool:
    return type(value) is int and value >= 0


class Table:
    """A table with any keys, whose values have one shape."""

    def __init__(self, values: Shape) -> None:
        self.values = values


METADATA = {
    "name!": dns_name,
    "namespace": dns_name,
    "labels": Table(str),
    "annotations": Table(str),
}
RESOURCES = {"requests": Table(quantity), "limits": Table(quantity)}
CONTAINER = {
    "name!": dns_name,
    "image!": str,
    "imagePullPolicy": words("Always", "IfNotPresent", "Never"),
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value": str}],
    "resources": RESOURCES,
    "volumeMounts": [{"name!": dns_name, "mountPath!": str, "readOnly": bool}],
}
VOLUME = {"name!": dns_name, "persistentVolumeClaim": {"claimName!": dns_name, "readOnly": bool}}
POD = {
    "metadata": {"labels": Table(str), "annotations": Table(str)},
    "spec!": {
        "restartPolicy": words("Never", "Always", "OnFailure"),
        "containers!": [CONTAINER],
        "volumes": [VOLUME],
        "nodeSelector": Table(str),
        "serviceAccountName": dns_name,
    },
}
CLUSTER = {
    "rayVersion": str,
    "suspend": bool,
    "authOptions": {"mode": words("token", "disabled")},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "version": words("v1", "v2"),
        "idleTimeoutSeconds": amount,
        "upscalingMode": words("Default", "Aggressive", "Conservative"),
        "resources": RESOURCES,
    },
    "headGroupSpec!": {
        "serviceType": words("ClusterIP", "NodePort", "LoadBalancer"),
        "enableIngress": bool,
        "rayStartParams": Table(str),
        "template!": POD,
    },
    "workerGroupSpecs": [
        {
            "groupName!": dns_name,
            "replicas": amount,
            "minReplicas!": amount,
            "maxReplicas!": amount,
            "numOfHosts": amount,
            "idleTimeoutSeconds": amount,
            "rayStartParams": Table(str),
            "template!": POD,
        }
    ],
}
RAY = {"apiVersion!": words("ray.io/v1"), "metadata!": METADATA}
KINDS: dict[str, Shape] = {
    "RayCluster": {**RAY, "kind!": str, "spec!": CLUSTER},
    "RayJob": {
        **RAY,
        "kind!": str,
        "spec!": {
            "entrypoint!": str,
            "entrypointNumCpus": amount,
            "entrypointNumGpus": amount,
            "entrypointResources": str,
            "runtimeEnvYAML": str,
            "jobId": str,
            "submissionMode": words("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
            "shutdownAfterJobFinishes": bool,
            "ttlSecondsAfterFinished": amount,
            "activeDeadlineSeconds": amount,
            "backoffLimit": amount,
            "clusterSelector": Table(str),
            "rayClusterSpec": CLUSTER,
        },
    },
    "PersistentVolumeClaim": {
        "apiVersion!": words("v1"),
        "kind!": str,
        "metadata!": METADATA,
        "spec!": {
            "accessModes!": [words("ReadWriteMany")],  # the head and the learner write
            "storageClassName": str,
            "resources!": RESOURCES,
        },
    },
    "NetworkPolicy": {
        "apiVersion!": words("networking.k8s.io/v1"),
        "kind!": str,
        "metadata!": METADATA,
        "spec!": {
            "podSelector!": {"matchLabels": Table(str)},
            "policyTypes": [words("Ingress", "Egress")],
            "ingress": [
                {
                    "from": [
                        {
                            "podSelector": {"matchLabels": Table(str)},
                            "namespaceSelector": {"matchLabels": Table(str)},
                        }
                    ]
                }
            ],
        },
    },
}


def faults(value: Any, shape: Shape, path: str = "") -> Iterator[str]:
    """Where a value does not have its shape."""
    if isinstance(shape, Table | dict):
        if not isinstance(value, dict):
            yield f"{path}: not a table"
        elif isinstance(shape, dict):
            yield from _table_faults(value, shape, path)
        else:
            yield from _table_faults(value, dict.fromkeys(value, shape.values), path)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{path}: not a list"
        else:
            for place, entry in enumerate(value):
                yield from faults(entry, shape[0], f"{path}[{place}]")
    elif type(value) is not shape if isinstance(shape, type) else not shape(value):
        yield f"{path}: {value!r} is not allowed"


def _table_faults(value: dict[str, Any], shape: dict[str, Shape], path: str) -> Iterator[str]:
    fields = {name.rstrip("!"): inner for name, inner in shape.items()}
    for name in shape:
        if name.endswith("!") and name[:-1] not in value:
            yield f"{path}.{name[:-1]}: missing"
    for name, entry in value.items():
        if name not in fields:
            yield f"{path}.{name}: unknown"
        else:
            yield from faults(entry, fields[name], f"{path}.{name}")
