"""Manifests for Volcano: held to its own CRDs, and each step given what the sandbox gives it. No cluster ran them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from repro.base.errors import UsageError
from repro.base.paths import Paths
from repro.cluster.volcano import Parts, Site, manifests, name_of
from repro.display.console import Console
from repro.graph.pipeline import Output, Request, Source, build_graph
from repro.run.export_jobs import Asked, export
from repro.run.options import Options
from repro.run.request import graph_of

ROOT = Path(__file__).resolve().parents[2]
KINDS = json.loads((ROOT / "tests" / "data" / "volcano.json").read_bytes())["kinds"]
SITE = Site("registry.example/x", "files", "node1", 8)


def strict(schema: Any) -> Any:
    """A structural schema as the API server prunes by it: what it does not name is refused."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if isinstance(found.get("properties"), dict) and "type" in found:
        found.setdefault("additionalProperties", False)
    return found


def schema_of(kind: str) -> Any:
    found = strict(KINDS[kind])
    found["properties"]["metadata"] = {"type": "object"}
    return found


@pytest.fixture(scope="module", params=[False, True], ids=["cpu", "npu"])
def made(request):
    asked = Request(batch_sizes=(4, 8), decode="Beam")
    if request.param:
        asked = Request(batch_sizes=(4,), device="npu", soc_version="Ascend310P3", num_devices=2)
    nodes = graph_of(asked, Paths(ROOT))
    parts = Parts(
        images={node.stage.image: f"sha256:{'a' * 64}" for node in nodes.values()},
        code={node.stage.name: "b" * 64 for node in nodes.values()},
        sources={s.name: "c" * 64 for node in nodes.values() for s in node.inputs.values() if isinstance(s, Source)},
    )
    return nodes, manifests(nodes, parts, SITE)["items"]


def of_kind(items, kind: str):
    return {item["metadata"]["name"]: item["spec"] for item in items if item["kind"] == kind}


def test_each_object_is_what_volcano_s_own_schema_names(made):
    nodes, items = made
    for item in items:
        if item["kind"] in KINDS:
            jsonschema.validate(item, schema_of(item["kind"]))
    assert len(of_kind(items, "JobTemplate")) == len(nodes), "two steps have one name"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**items[1], "spec": {**items[1]["spec"], "dependsOn": {}}}, schema_of("JobTemplate"))


def test_a_step_starts_when_all_that_it_needs_is_complete(made):
    nodes, items = made
    [flow] = of_kind(items, "JobFlow").values()
    targets = {each["name"]: set(each.get("dependsOn", {}).get("targets", ())) for each in flow["flows"]}
    assert targets == {
        name_of(node.key): {name_of(given.node) for given in node.inputs.values() if isinstance(given, Output)}
        for node in nodes.values()
    }
    assert set(targets) == set(of_kind(items, "JobTemplate"))


def test_a_step_runs_its_own_words_and_reads_what_other_steps_wrote(made):
    nodes, items = made
    templates = of_kind(items, "JobTemplate")
    for node in nodes.values():
        [container] = templates[name_of(node.key)]["tasks"][0]["template"]["spec"]["containers"]
        assert container["command"] == list(node.argv()) and container["image"].endswith(f"@sha256:{'a' * 64}")
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert set(mounts) == {
            "/run/code",
            "/run/out",
            "/run/obs",
            "/tmp",
            *(f"/run/in/{name}" for name in node.inputs),
        }
        written = {path for path, mount in mounts.items() if not mount.get("readOnly")}
        assert written == {"/run/out", "/run/obs", "/tmp"}
        for name, given in node.inputs.items():
            path = mounts[f"/run/in/{name}"]["subPath"]
            assert path == f"steps/{name_of(given.node)}/out" if isinstance(given, Output) else path.endswith("c" * 16)
        asked = container["resources"]["limits"]
        assert ("huawei.com/Ascend310P" in asked) == node.stage.accelerator


def test_no_step_has_rights_or_a_network_and_one_that_measures_is_alone(made):
    nodes, items = made
    [policy] = of_kind(items, "NetworkPolicy").values()
    assert policy["policyTypes"] == ["Ingress", "Egress"] and "egress" not in policy and "ingress" not in policy
    templates = of_kind(items, "JobTemplate")
    for node in nodes.values():
        template = templates[name_of(node.key)]["tasks"][0]["template"]
        spec, own = template["spec"], template["spec"]["containers"][0]["securityContext"]
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert own["readOnlyRootFilesystem"] and own["capabilities"] == {"drop": ["ALL"]}
        assert not own["allowPrivilegeEscalation"] and spec["securityContext"]["runAsNonRoot"]
        assert not spec["automountServiceAccountToken"] and "hostPath" not in json.dumps(spec)
        alone = "podAntiAffinity" in json.dumps(spec) and spec["nodeSelector"] == {"kubernetes.io/hostname": "node1"}
        assert alone == node.stage.host_bound


def test_names_are_kubernetes_s():
    nodes = build_graph(Request(batch_sizes=(1, 64)), ROOT / "conf", ROOT / "data" / "demo" / "checkpoint.pth")
    for key in [*nodes, "score@4+2", "probe:base", "convert_npu@8"]:
        assert re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", name_of(key)), key


def test_wrong_use_is_told_before_anything_is_looked_for(tmp_path: Path):
    options = Options(request=Request(batch_sizes=(4,)))
    with pytest.raises(UsageError, match="--for 'argo' is not known"):
        export(Asked(options, "argo", "", SITE), Paths(tmp_path), Console())
    with pytest.raises(UsageError, match="there already"):
        export(Asked(options, "volcano", str(tmp_path), SITE), Paths(tmp_path), Console())
