"""Runs the RO-Crate validator on a folder without network: the context of RO-Crate 1.1 comes from the package rocrate.

Two checks ask whether the context can be fetched; they are replaced by the last one here, that it holds each term.
Prints one finding a line and exits with 1 if there is any.
"""

import json
import sys
from pathlib import Path

import rocrate
from rocrate_validator import models, services
from rocrate_validator.utils import document_loader

CONTEXT_URL = "https://w3id.org/ro/crate/1.1/context"
FETCHING = ["ro-crate-1.1_3.1", "ro-crate-1.1_3.2"]


def findings(folder):
    context = json.loads((Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text())
    assert context["version"].startswith("1.1")
    fetch = document_loader._original_source_to_json

    def local(source, *arguments, **options):
        return (context, None) if str(source) == CONTEXT_URL else fetch(source, *arguments, **options)

    document_loader._original_source_to_json = local
    settings = services.ValidationSettings(
        rocrate_uri=folder,
        profile_identifier="provenance-run-crate",
        requirement_severity=models.Severity.REQUIRED,
        skip_checks=FETCHING,
    )
    result = services.validate(settings)
    found = [f"{issue.check.identifier}: {issue.message}" for issue in result.get_issues()]
    document = json.loads((Path(folder) / "ro-crate-metadata.json").read_text())
    terms = {**context["@context"], **document["@context"][1]}
    for entity in document["@graph"]:
        types = entity["@type"] if isinstance(entity["@type"], list) else [entity["@type"]]
        found += [f"{entity['@id']}: no context has the term {t}" for t in [*entity, *types] if not known(t, terms)]
    return found


def known(term, terms):
    return term in terms or term in ("@id", "@type")


if __name__ == "__main__":
    lines = findings(sys.argv[1])
    print("\n".join(lines))
    sys.exit(bool(lines))
