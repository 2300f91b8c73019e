"""Nodes of the graph as jobs of Volcano on Kubernetes: one JobTemplate per node, and one JobFlow that orders them.

A JobFlow starts a job when those that it names are completed; `dependsOn` of a Volcano Job waits only until pods run.
The containers are given what the sandbox gives: a read-only root, code and inputs read-only, out/ and obs/ to write, no
network, no rights. Nothing here was run on a cluster: the tests hold it to the schemas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro.graph.pipeline import Node, Source
from repro.graph.stage_job import STAGE_ENV

FLOW = "flow.volcano.sh/v1alpha1"
_APP = "lstm-ctc"
_HOST = "kubernetes.io/hostname"
_USER = 65532  # nobody in particular; the volume has to let this user write below steps/
_NAME_LIMIT = 63
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Site:
    """What the manifests say of a cluster.

    Attributes:
        registry: where the images were pushed, such as 'registry.example/lstm-ctc'.
        claim: the PersistentVolumeClaim that every node can mount, with the files in it.
        measure_on: the node that speeds are measured on.
        cores: of a node: what a stage asks for that takes the whole machine.
        npu: the resource's name.
        queue: Volcano's.
    """

    registry: str
    claim: str
    measure_on: str
    cores: int
    npu: str = "huawei.com/Ascend310P"
    queue: str = "default"


@dataclass(frozen=True)
class Parts:
    """Digests of what the steps need: of images by name, of the stages' code, of sources by their name."""

    images: Mapping[str, str]
    code: Mapping[str, str]
    sources: Mapping[str, str]


def manifests(nodes: Mapping[str, Node], parts: Parts, site: Site) -> Manifest:
    """All objects as one List, which `kubectl apply` takes.

    Args:
        nodes: of the graph, each after its inputs.
        parts: digests.
        site: where they shall run.
    """
    flows = []
    for node in nodes.values():
        targets = sorted({name_of(given.node) for given in node.inputs.values() if not isinstance(given, Source)})
        flows.append({"name": name_of(node.key), **({"dependsOn": {"targets": targets}} if targets else {})})
    flow = _object(FLOW, "JobFlow", _APP, {"jobRetainPolicy": "retain", "flows": flows})
    alone = {"podSelector": {"matchLabels": {"app": _APP}}, "policyTypes": ["Ingress", "Egress"]}
    closed = _object("networking.k8s.io/v1", "NetworkPolicy", _APP, alone)
    templates = [_template(node, parts, site) for node in nodes.values()]
    return {"apiVersion": "v1", "kind": "List", "items": [closed, *templates, flow]}


def name_of(key: str) -> str:
    """A step's name as Kubernetes takes names: 'measure@8' is 'measure-bs8'."""
    return re.sub("[^a-z0-9-]", "-", key.lower().replace("@", "-bs"))[:_NAME_LIMIT].strip("-")


def source_path(name: str, digest: str) -> str:
    """Where a source lies in the volume."""
    return f"inputs/{name_of(name)}-{digest[:16]}"


def code_path(digest: str) -> str:
    """Where a stage's code lies in the volume."""
    return f"code/{digest}"


def _object(version: str, kind: str, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": {"app": _APP}}, "spec": spec}


def _template(node: Node, parts: Parts, site: Site) -> Manifest:
    task = {"name": "stage", "replicas": 1, "template": _pod(node, parts, site)}
    spec = {
        "minAvailable": 1,
        "maxRetry": 1,
        "schedulerName": "volcano",
        "queue": site.queue,
        "policies": [{"event": "PodFailed", "action": "AbortJob"}],
        "tasks": [task],
    }
    return _object(FLOW, "JobTemplate", name_of(node.key), spec)


def _pod(node: Node, parts: Parts, site: Site) -> Manifest:
    stage = node.stage
    digest = parts.images[stage.image]
    amounts = {"cpu": str(site.cores if stage.whole_machine else 1), "memory": str(stage.memory_bytes)}
    if stage.accelerator:
        amounts[site.npu] = node.parameters.get("num-devices", "1")
    container = {
        "name": "stage",
        "image": f"{site.registry}/{name_of(stage.image)}@{digest}",
        "command": list(node.argv()),
        "env": [{"name": name, "value": value} for name, value in STAGE_ENV.items()],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(node, parts),
    }
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(stage.timeout_s),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "files", "persistentVolumeClaim": {"claimName": site.claim}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if stage.host_bound:  # alone on one named node: as far as this application's own pods go
        term = {"labelSelector": {"matchLabels": {"app": _APP}}, "topologyKey": _HOST}
        spec["nodeSelector"] = {_HOST: site.measure_on}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {"metadata": {"labels": {"app": _APP, "step": name_of(node.key)}}, "spec": spec}


def _mounts(node: Node, parts: Parts) -> list[Manifest]:
    step = f"steps/{name_of(node.key)}"
    places = {"code": code_path(parts.code[node.stage.name])}
    for name, given in sorted(node.inputs.items()):
        if isinstance(given, Source):
            places[f"in/{name}"] = source_path(given.name, parts.sources[given.name])
        else:
            places[f"in/{name}"] = f"steps/{name_of(given.node)}/out"
    read = [
        {"name": "files", "mountPath": f"/run/{place}", "subPath": path, "readOnly": True}
        for place, path in places.items()
    ]
    written = [{"name": "files", "mountPath": f"/run/{name}", "subPath": f"{step}/{name}"} for name in ("out", "obs")]
    return [*read, *written, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - of the container's own
