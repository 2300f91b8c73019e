"""verify.html: a bundle verified in a browser, without a connection. One file, assembled from the sources beside this.

A script of a page that is opened from disk can import no other file, so they are joined. The policy names the digest of
the script and of the style: the browser runs nothing else, and asks for nothing.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

# In the order in which one uses another.
_SCRIPTS = ("encoding", "sha2", "ed25519", "tar", "listing", "archive", "workers", "provenance", "statements", "verify",
            "contents", "words", "audit", "view", "main")  # fmt: skip
_POLICY = (
    "default-src 'none'; script-src {script}; worker-src blob:; style-src {style}; base-uri 'none'; form-action 'none'"
)


def verify_page() -> bytes:
    """The page: UTF-8, the same bytes for the same sources."""
    folder = Path(__file__).parent
    scripts = (folder.joinpath(f"{name}.js").read_text("utf-8") for name in _SCRIPTS)
    script = '"use strict";\n(() => {\n' + "\n".join(scripts) + "})();\n"
    style = folder.joinpath("verify.css").read_text("utf-8")
    page = folder.joinpath("verify.html").read_text("utf-8")
    policy = _POLICY.format(script=_source(script), style=_source(style))
    for place, text in (("@POLICY@", policy), ("@STYLE@", style), ("@SCRIPT@", script)):
        before, behind = page.split(place)
        page = before + text + behind
    return page.encode("utf-8")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
