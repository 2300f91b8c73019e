"""Runs the RO-Crate validator on a folder without network: the context of RO-Crate 1.1 comes from the package rocrate.

Two checks ask whether the context can be fetched; they are replaced by the last one here, that it holds each term.
Findings of what must be and of what should be count. Those of ARGUED are passed over, each for its reason.
Prints one finding per line and exits with 1 if there is any.
"""

import json
import sys
from pathlib import Path

import rocrate
from rocrate_validator import models, services
from rocrate_validator.utils import document_loader

CONTEXT_URL = "https://w3id.org/ro/crate/1.1/context"
FETCHING = ["ro-crate-1.1_3.1", "ro-crate-1.1_3.2"]
# What should be, and cannot truthfully be said: check, what it is about, why; docs/decisions/bundle-format.md has it.
ARGUED = (
    ("process-run-crate-0.5_3.2", "", "the repository has no public address"),
    ("process-run-crate-0.5_5.1", "", "the check wants http; programs are named by URN, which is an absolute URI too"),
    ("process-run-crate-0.5_8.4", "./#action/", "an earlier run made it, and this record does not say when"),
    ("process-run-crate-0.5_13.2", "", "the images were built here and lie in no registry"),
    ("ro-crate-1.1_22.2", "./", "a record names no people"),
    ("ro-crate-1.1_22.3", "./", "nor organisations"),
    ("workflow-ro-crate-1.0_6.1", "./README.md", "report.md is the page for people"),
    ("workflow-ro-crate-1.0_6.2", "./README.md", "likewise"),
    ("workflow-ro-crate-1.0_8.1", "./workflow.json", "the profile asks for a creator and an address"),
)


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
        requirement_severity=models.Severity.RECOMMENDED,
        skip_checks=FETCHING,
    )
    result = services.validate(settings)
    issues = [(issue.check.identifier, str(issue.violatingEntity), issue.message) for issue in result.get_issues()]
    found = [f"{check} {about}: {text}" for check, about, text in issues if not argued(check, about)]
    document = json.loads((Path(folder) / "ro-crate-metadata.json").read_text())
    terms = {**context["@context"], **document["@context"][1]}
    for entity in document["@graph"]:
        types = entity["@type"] if isinstance(entity["@type"], list) else [entity["@type"]]
        found += [f"{entity['@id']}: no context has the term {t}" for t in [*entity, *types] if not known(t, terms)]
    return found


def argued(check, about):
    return any(check == name and about.startswith(place) for name, place, _ in ARGUED)


def known(term, terms):
    return term in terms or term in ("@id", "@type")


if __name__ == "__main__":
    lines = findings(sys.argv[1])
    print("\n".join(lines))
    sys.exit(bool(lines))
