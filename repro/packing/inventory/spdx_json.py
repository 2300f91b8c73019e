"""The inventory as SPDX 3.0.1 JSON-LD, with the profiles for software, licences, AI and data sets.

The document's name space is made of its content, so equal facts give equal bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from repro.base.files import pretty_json, sha256_bytes
from repro.packing.inventory.cyclonedx_json import NAMESPACE, formulas
from repro.packing.inventory.facts import (
    APPLICATION,
    CONTAINER,
    DATA,
    LIBRARY,
    MODEL,
    SYSTEM,
    Inventory,
    Metric,
    ModelCard,
    Part,
    Party,
)

_CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_PURPOSES = {
    APPLICATION: "application", CONTAINER: "container", LIBRARY: "library", SYSTEM: "operatingSystem", MODEL: "model",
    DATA: "data",
}  # fmt: skip
_TYPES = {MODEL: "ai_AIPackage", DATA: "dataset_DatasetPackage"}
_CREATION = "_:creation"
_PLACE = "urn:uuid:00000000-0000-0000-0000-000000000000"

Element = dict[str, Any]


def spdx(inventory: Inventory) -> bytes:
    """The document; equal facts give equal bytes."""
    without = pretty_json(_document(inventory, _PLACE))
    return pretty_json(_document(inventory, f"urn:uuid:{uuid.uuid5(NAMESPACE, sha256_bytes(without))}"))


class _Graph:
    """The elements so far. Agents and licences that several parts share stand in it once."""

    def __init__(self, base: str, inventory: Inventory) -> None:
        self._base = base
        self._texts = inventory.licence_texts
        self.elements: dict[str, Element] = {}

    def id(self, name: str) -> str:
        """The identifier of an element."""
        return f"{self._base}#{name}"

    def add(self, kind: str, local: str, /, **values: object) -> str:
        """Add an element, without what is empty; returns its identifier."""
        identifier = self.id(local)
        given = {key: value for key, value in values.items() if value not in ("", None, [])}
        self.elements[identifier] = {"type": kind, "spdxId": identifier, "creationInfo": _CREATION, **given}
        return identifier

    def agent(self, party: Party, kind: str = "Organization") -> str:
        """Somebody who made or supplies something."""
        known = (("email", party.email), ("urlScheme", party.url))
        identifiers = [
            {"type": "ExternalIdentifier", "externalIdentifierType": word, "identifier": text}
            for word, text in known
            if text
        ]
        name = sha256_bytes(f"{kind}\n{party.name}\n{party.url}\n{party.email}".encode())[:16]
        return self.add(kind, f"agent-{name}", name=party.name, externalIdentifier=identifiers)

    def licence(self, expression: str) -> str:
        """An expression; each LicenseRef in it with the words that it stands for."""
        words = expression.replace("(", " ").replace(")", " ").split()
        mapped = []
        for word in sorted({word for word in words if word.startswith("LicenseRef-")}):
            text = self.add("simplelicensing_SimpleLicensingText", word,
                            simplelicensing_licenseText=self._texts.get(word, word))  # fmt: skip
            mapped.append({"type": "DictionaryEntry", "key": word, "value": text})
        return self.add(
            "simplelicensing_LicenseExpression",
            f"licence-{sha256_bytes(expression.encode())[:16]}",
            simplelicensing_licenseExpression=expression,
            simplelicensing_customIdToUri=mapped,
        )

    def relate(self, one: str, how: str, others: Iterable[str]) -> None:
        """A relationship, which lists all that there is of its kind."""
        to = list(others)
        if to:
            name = sha256_bytes("\n".join((one.rpartition("#")[2], how, *to)).replace(self._base, "").encode())[:16]
            self.add("Relationship", f"relationship-{name}", **{"from": one}, relationshipType=how, to=to,
                     completeness="complete")  # fmt: skip


def _document(inventory: Inventory, base: str) -> Element:
    graph, commit = _Graph(base, inventory), inventory.commit
    author = graph.agent(Party(commit.author, email=commit.email), "Person")
    packages = {part.ref: _package(graph, part, inventory) for part in (inventory.root, *inventory.parts.values())}
    for reference, parts in inventory.contains.items():
        graph.relate(packages[reference], "contains", (packages[part] for part in parts))
    for card in inventory.cards:
        for how, reference in (("trainedOn", card.trained_on), ("testedOn", card.tested_on)):
            if reference in packages and card.model in packages:
                graph.relate(packages[card.model], how, [packages[reference]])
    elements = list(graph.elements)
    sbom = graph.add("software_Sbom", "sbom", name="lstm-ctc-bundle", software_sbomType=["build"],
                     rootElement=[packages[inventory.root.ref]], element=elements)  # fmt: skip
    graph.add("SpdxDocument", "document", name=f"lstm-ctc-bundle {commit.id}", rootElement=[sbom],
              element=[*elements, sbom],
              profileConformance=["core", "software", "simpleLicensing", "ai", "dataset"])  # fmt: skip
    creation = {"type": "CreationInfo", "@id": _CREATION, "specVersion": "3.0.1", "created": commit.time,
                "createdBy": [author]}  # fmt: skip
    return {"@context": _CONTEXT, "@graph": [creation, *graph.elements.values()]}


def _package(graph: _Graph, part: Part, inventory: Inventory) -> str:
    purl = [{"type": "ExternalIdentifier", "externalIdentifierType": "packageUrl", "identifier": part.purl}]
    card = next((card for card in inventory.cards if card.model == part.ref), None)
    kind = _TYPES.get(part.kind, "software_Package")
    special = _model(card) if part.kind == MODEL else _data(part) if part.kind == DATA else {}
    identifier = graph.add(
        kind,
        f"part-{part.ref.replace(':', '-')}",
        name=part.name,
        description=part.description,
        software_packageVersion=part.version,
        software_primaryPurpose=_PURPOSES[part.kind],
        software_copyrightText=part.copyright,
        software_packageUrl=part.purl,
        externalIdentifier=purl if part.purl else [],
        suppliedBy=graph.agent(part.supplier),
        originatedBy=[graph.agent(part.maker)],
        verifiedUsing=_hashes(part),
        comment="; ".join(f"{name}: {value}" for name, value in sorted(part.properties.items())),
        **({"releaseTime": inventory.commit.time} if special else {}),
        **special,
    )
    licence = graph.licence(part.licence)
    graph.relate(identifier, "hasConcludedLicense", [licence])
    graph.relate(identifier, "hasDeclaredLicense", [licence])
    if part.file_name:
        file = graph.add("software_File", f"file-{part.ref.replace(':', '-')}", name=part.file_name,
                         verifiedUsing=_hashes(part), software_primaryPurpose="archive",
                         software_additionalPurpose=["container"],
                         software_copyrightText=part.copyright)  # fmt: skip
        graph.relate(identifier, "hasDistributionArtifact", [file])
    return identifier


def _hashes(part: Part) -> list[Element]:
    pairs = zip(("sha256", "sha512"), part.digests or ())
    return [{"type": "Hash", "algorithm": name, "hashValue": value} for name, value in pairs if value]


def _data(part: Part) -> Element:
    return {
        "dataset_datasetType": ["audio", "text"],
        "dataset_intendedUse": "training and testing of a phoneme recogniser",
        "dataset_dataCollectionProcess": part.description,
    }


def _model(card: ModelCard | None) -> Element:
    if card is None:
        return {}
    return {
        "ai_typeOfModel": ["supervised", card.architecture],
        "ai_domain": ["speech recognition"],
        "ai_informationAboutTraining": card.training,
        "ai_informationAboutApplication": card.task,
        "ai_limitation": " ".join(card.limitations),
        "ai_metric": [
            *(_entry(f"{metric.name}, {metric.scope}", _value(metric)) for metric in card.metrics),
            *(_entry(f"formula: {name}", text) for name, text in formulas(card).items()),
        ],
        "ai_modelExplainability": ["lineage: " + " -> ".join(f"{name} sha256:{sha}" for name, sha in card.lineage)],
    }


def _value(metric: Metric) -> str:
    interval = "" if metric.lower is None else f" [{metric.lower!r}, {metric.upper!r}]"
    return f"{metric.value!r}{interval}"


def _entry(key: str, value: str) -> Element:
    return {"type": "DictionaryEntry", "key": key, "value": value}
