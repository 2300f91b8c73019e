"""SLSA provenance of images and runs: made once when a bundle is packed, and made again by whoever verifies it.

A statement is compared with what the bundle's own files give: images.json, the locks and the run's record.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from repro.packing.installer.listing import STATEMENT_TYPE, canonical

PROVENANCE = "https://slsa.dev/provenance/v1"
_BUILDER = "urn:lstm-ctc-bundle:builder:1"
_BUILD_TYPE = "urn:lstm-ctc-bundle:%s:1"


def named(name: str, digest: str) -> dict[str, Any]:
    """An in-toto resource descriptor; `digest` is hex, with or without 'sha256:'."""
    return {"name": name, "digest": {"sha256": digest.rpartition(":")[2]}}


def _provenance(
    subjects: Sequence[Mapping[str, Any]], kind: str, build: Mapping[str, Any], run: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "predicateType": PROVENANCE,
        "subject": list(subjects),
        "predicate": {
            "buildDefinition": {"buildType": _BUILD_TYPE % kind, "internalParameters": {}, **build},
            "runDetails": {"builder": {"id": _BUILDER}, **run},
        },
    }


def image_statement(architecture: str, name: str, image: Mapping[str, Any], commit: str) -> dict[str, Any]:
    """What an image was made from: its definition at a commit, and its layers' locks.

    Args:
        architecture, name: of the image.
        image: its entry in images.json.
        commit: of the repository.
    """
    return _provenance(
        [named("config", image["image_id"]), named("manifest", image["manifest_digest"])],
        "image",
        {
            "externalParameters": {"architecture": architecture, "image": name},
            "resolvedDependencies": [
                {"name": "repository", "digest": {"gitCommit": commit}},
                *(named("lock of {}".format(layer["name"]), layer["made_from"]) for layer in image["layers"]),
            ],
        },
        {"byproducts": [named("layer {}".format(layer["name"]), layer["diff_id"]) for layer in image["layers"]]},
    )


def run_statement(record: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """What a run took (images, data, weights, code by stage) and gave (its record, and every stage's outputs).

    Args:
        record: of the run, as parsed from its JSON.
        sha256: hex, of its bytes.
    """
    data, checkpoint = record["data"], record["checkpoint"]
    return _provenance(
        [
            named("record.json", sha256),
            *(named("output of {}".format(s["key"]), s["outputs"]["digest"]) for s in record["stages"]),
        ],
        "run",
        {
            "externalParameters": record["request"],
            "resolvedDependencies": [
                *(named(f"image {name}", digest) for name, digest in sorted(record["images"].items())),
                named("data ({})".format(data["kind"]), data["fingerprint"]),
                named("checkpoint ({})".format(checkpoint["kind"]), checkpoint["sha256"]),
                *(named("code of {}".format(stage["key"]), stage["code"]) for stage in record["stages"]),
            ],
        },
        {"metadata": {"invocationId": record["identity"]["sha256"]}},
    )


def lock_digest(kind: str, lock: Mapping[str, Any]) -> str:
    """The digest of a lock's content, which an image's layer names as `made_from`: as repro/locks/model.py has it.

    Args:
        kind: 'debs' or 'wheels'.
        lock: the lock's file, parsed.
    """
    if kind == "debs":
        platform = lock["architecture"]
        files = [[deb["path"].rpartition("/")[2], deb["sha256"]] for deb in lock["debs"]]
    else:
        platform = "{} {}".format(lock["architecture"], lock["python"])
        files = [[wheel["filename"], wheel["sha256"]] for wheel in lock["wheels"]]
    content = {"kind": kind, "platform": platform, "files": sorted(files)}
    return hashlib.sha256(canonical(content)).hexdigest()


def first_difference(found: Any, wanted: Any, place: str = "") -> str:
    """Where two JSON values differ first, such as 'subject[1].name'; '' where they are equal."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        inside = [(f"{place}.{key}".lstrip("."), found.get(key), wanted.get(key)) for key in sorted({*found, *wanted})]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        inside = [(f"{place}[{number}]", *pair) for number, pair in enumerate(zip(found, wanted))]
    else:
        same = found == wanted and type(found) is type(wanted)
        return "" if same else place or "the whole"
    return next((where for one, a, b in inside for where in [first_difference(a, b, one)] if where), "")
