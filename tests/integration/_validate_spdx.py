"""Runs public checkers on an SPDX 3 inventory without network: NTIA's, CISA's and BSI's minimum elements, and SHACL.

The checkers' package carries the model as classes, by which the file is read. SPDX's own SHACL shapes come with no
package: they are held to only where a folder with spdx-model.ttl and spdx-context.jsonld is given.
Prints one finding a line and exits with 1 if there is any.
"""

import json
import sys
from pathlib import Path

from ntia_conformance_checker import SbomChecker


def findings(file, model):
    found = []
    for standard in ("ntia", "fsct3-min", "bsi"):
        checker = SbomChecker(file, compliance=standard, sbom_spec="spdx3")
        found += [f"{standard}: {text}" for text in (*checker.parsing_errors, *checker.validation_messages)]
        found += [f"{standard}: no {name}: {', '.join(part for part, _ in parts)}"
                  for name, parts in checker.all_components_without_info if parts]  # fmt: skip
        if not checker.compliant:
            missing = [what for what, holds in checker.table_elements if not holds]
            found.append(f"{standard}: not conformant: {missing}")
    return found + (shapes(Path(file), Path(model)) if model else [])


def shapes(file, model):
    import rdflib
    from spdx3_validate.core import check_graph
    from spdx3_validate.spdx_versions import find_version

    document = json.loads(file.read_text())
    version = find_version(document["@context"])
    document["@context"] = json.loads((model / "spdx-context.jsonld").read_text())["@context"]
    graph, shacl = rdflib.Graph(), rdflib.Graph()
    graph.parse(data=json.dumps(document), format="json-ld")
    shacl.parse(model / "spdx-model.ttl")
    return check_graph(graph, shacl, version, True)


if __name__ == "__main__":
    lines = findings(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
    print("\n".join(lines))
    sys.exit(bool(lines))
