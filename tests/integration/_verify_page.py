"""verify.html open in Chromium, and the outcome of a bundle there beside that of bundle.verify."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from repro.base.errors import BundleError
from repro.packing.commands import verify_and_describe
from repro.packing.page import verify_page
from repro.packing.verify import NOBODY, Rebuilders
from tests.integration._pages import Opened, opened
from tests.unit import _bundle_cases as cases

KEY = cases.signer().fingerprint
OTHER = cases.signer(2).fingerprint

# Files made in the page of base64 texts, and the outcome without what only the page shows.
_VERIFY = """async ([files, asked]) => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const made = files.map(([name, text]) => new File([bytes(text)], name));
  const { code, message, hint, failures, claims } = await verifier.verifyBundle(made, asked);
  return { code, message, hint, failures, claims };
}"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "verify.html"
    path.write_bytes(verify_page())
    return path


@pytest.fixture(scope="module")
def seen(browser: Browser, file: Path) -> Iterator[Opened]:
    """The page open for many verifications; that it stays quiet is looked at after the last one."""
    with opened(browser, file) as page:
        yield page
        page.finish()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def in_page(page: Page, paths: Sequence[Path], keys: str, **asked: Any) -> dict[str, Any]:
    files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    return page.evaluate(_VERIFY, [files, {"keys": keys, **asked}])


def by_command(path: Path, key: str, rebuilders: Rebuilders = NOBODY) -> tuple[int, str, str, list[str]]:
    """(exit code, message, hint, failures) of `invoke bundle.verify`, without the folder that a path lies in."""
    try:
        return 0, verify_and_describe(str(path), key, rebuilders, first_use=False), "", []
    except BundleError as error:
        said = [text.replace(f"{path.parent}/", "") for text in (error.message, error.hint or "", error.detail or "")]
        return error.exit_code, said[0], said[1], said[2].splitlines()


def assert_same(page: Page, paths: Sequence[Path], key: str = KEY) -> dict[str, Any]:
    """The page ends as the command does, in the same words; what to do may name another way to do it."""
    code, message, _, failures = by_command(paths[0], key)
    found = in_page(page, paths, key)
    assert (found["code"], found["message"], found["failures"]) == (code, message, failures)
    return found
