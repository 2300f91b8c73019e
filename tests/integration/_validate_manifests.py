"""Every object of a List held to Kubernetes' own schemas, strictly; prints how many. What is Volcano's holds a pod's
template, which is held to them too.

    python _validate_manifests.py FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import kubernetes_validate

VERSION = "1.28"
pods = 0
for item in json.loads(Path(sys.argv[1]).read_bytes())["items"]:
    if item["kind"] == "JobTemplate":
        [task] = item["spec"]["tasks"]
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": item["metadata"], "template": task["template"]}
        kubernetes_validate.validate(pod, VERSION, strict=True)
        pods += 1
    elif item["kind"] != "JobFlow":
        kubernetes_validate.validate(item, VERSION, strict=True)
print(pods)
