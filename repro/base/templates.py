"""How every page of ours is rendered: strictly, from a folder of templates, with escaping decided by the caller."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from repro.base.foreign import shown

_LONGEST = 10_000  # characters of one value


def html_templates(folder: Path) -> jinja2.Environment:
    """Templates whose every value is escaped for HTML; a name that is not given is an error.

    White space in values is one space each; control characters and direction marks are spelt out. `Markup` passes as
    it is.
    """
    return _environment(folder, autoescape=True, finalize=_shown)


def policy_hash(text: str) -> Markup:
    """How a page's content security policy names an inline style or script of this text."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup("'sha256-{}'").format(Markup(digest))  # noqa: S704 - base64


def _shown(value: Any) -> Any:
    return value if isinstance(value, Markup) else shown(" ".join(str(value).split()), _LONGEST)


def text_templates(folder: Path, escape: Callable[[Any], str]) -> jinja2.Environment:
    """Templates whose every value passes through `escape`, for Markdown say."""
    return _environment(folder, autoescape=False, finalize=escape)


def _environment(folder: Path, **options: Any) -> jinja2.Environment:
    return jinja2.Environment(  # noqa: S701 - autoescape, or an escaping finalize, is in both callers' options
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
