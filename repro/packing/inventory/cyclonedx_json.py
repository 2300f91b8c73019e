"""The inventory as CycloneDX 1.6 JSON, written by the CycloneDX project's own library.

No clock and no random number enters: the time is the commit's, and the serial number is made of all the rest. The
model's card, which the library cannot write, is added to what it wrote.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Union

from cyclonedx.model import HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.model.lifecycle import LifecyclePhase, PredefinedLifecycle
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

from repro.base.files import sha256_bytes
from repro.packing.inventory.facts import MODEL, Digests, Inventory, Metric, ModelCard, Part, Party

NAMESPACE = uuid.UUID("5ff4bb2d-4a53-5b4a-9d2d-3b6f0f6bd7a1")
_PREFIX = "lstm-ctc-bundle:"


def cyclonedx(inventory: Inventory) -> bytes:
    """The document; equal facts give equal bytes."""
    root = _component(inventory.root)
    components = {ref: _component(part) for ref, part in inventory.parts.items()}
    references = {ref: component.bom_ref for ref, component in [*components.items(), (inventory.root.ref, root)]}
    bom = Bom(
        serial_number=NAMESPACE,
        metadata=BomMetaData(
            component=root,
            timestamp=datetime.strptime(inventory.commit.time, "%Y-%m-%dT%H:%M:%S%z"),
            authors=[OrganizationalContact(name=inventory.commit.author, email=inventory.commit.email)],
            supplier=_entity(inventory.root.supplier),
            lifecycles=[PredefinedLifecycle(LifecyclePhase.BUILD)],
        ),
        components=components.values(),
        dependencies=[
            Dependency(references[name], [Dependency(references[part]) for part in parts])
            for name, parts in inventory.contains.items()
        ],
        properties=_properties({f"licence_of_{name}": text for name, text in inventory.licence_texts.items()}),
    )
    without = _with_cards(bom, inventory)
    bom.serial_number = uuid.uuid5(NAMESPACE, sha256_bytes(without))
    return _with_cards(bom, inventory)


def _with_cards(bom: Bom, inventory: Inventory) -> bytes:
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    cards = {card.model: _card(card) for card in inventory.cards}
    for component in document["components"]:
        if component["bom-ref"] in cards:
            component["modelCard"] = cards[component["bom-ref"]]
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _component(part: Part) -> Component:
    return Component(
        type=ComponentType(part.kind),
        bom_ref=part.ref,
        name=part.name,
        version=part.version,
        supplier=_entity(part.supplier),
        manufacturer=_entity(part.maker),
        licenses=_licences(part.licence),
        copyright=part.copyright,
        purl=PackageURL.from_string(part.purl) if part.purl else None,
        hashes=_hashes(part.digests),
        description=part.description or None,
        scope=None if part.carried and part.kind != MODEL else (
            ComponentScope.REQUIRED if part.carried else ComponentScope.EXCLUDED
        ),
        properties=_properties({**part.properties, **({"file_name": part.file_name} if part.file_name else {})}),
    )  # fmt: skip


def _entity(party: Party) -> OrganizationalEntity:
    contacts = [OrganizationalContact(name=party.name, email=party.email)] if party.email else []
    return OrganizationalEntity(name=party.name, urls=[XsUri(party.url)] if party.url else [], contacts=contacts)


def _hashes(digests: Digests | None) -> Iterable[HashType]:
    pairs = zip((HashAlgorithm.SHA_256, HashAlgorithm.SHA_512), digests or ())
    return [HashType(alg=algorithm, content=value) for algorithm, value in pairs if value]


def _licences(expression: str) -> list[Union[DisjunctiveLicense, LicenseExpression]]:
    if is_supported_id(expression):
        return [DisjunctiveLicense(id=expression)]
    return [LicenseExpression(expression)]


def _properties(values: dict[str, str]) -> list[Property]:
    return [Property(name=f"{_PREFIX}{name}", value=value) for name, value in sorted(values.items())]


def _card(card: ModelCard) -> dict[str, Any]:
    datasets = [{"ref": reference} for reference in dict.fromkeys((card.trained_on, card.tested_on)) if reference]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": card.task,
            "architectureFamily": "recurrent neural network",
            "modelArchitecture": card.architecture,
            "datasets": datasets,
            "inputs": [{"format": "stacked filter banks, float32"}],
            "outputs": [{"format": "log-probabilities of phones, float32"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [_metric(metric) for metric in card.metrics]},
        "considerations": {"technicalLimitations": list(card.limitations)},
        "properties": [
            {"name": f"{_PREFIX}{name}", "value": value}
            for name, value in (
                ("training", card.training),
                *((f"formula:{name}", text) for name, text in formulas(card).items()),
                *((f"lineage:{number}:{name}", f"sha256:{sha256}")
                  for number, (name, sha256) in enumerate(card.lineage)),
            )
        ],
    }  # fmt: skip


def _metric(metric: Metric) -> dict[str, Any]:
    """A figure as text that reads back as the very same number."""
    found: dict[str, Any] = {"type": metric.name, "value": repr(metric.value), "slice": metric.scope}
    if metric.lower is not None and metric.upper is not None:
        found["confidenceInterval"] = {"lowerBound": repr(metric.lower), "upperBound": repr(metric.upper)}
    return found


def formulas(card: ModelCard) -> dict[str, str]:
    """Each metric's formula with its unit."""
    return {metric.name: metric.formula for metric in card.metrics if metric.formula}
