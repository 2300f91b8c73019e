"""Every package that the host side installs is imported by product code, and the other way round."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE_OF = {"cyclonedx-python-lib": "cyclonedx", "python-debian": "debian"}
"""Where a package's module has another name."""
COMES_WITH = {"markupsafe": "jinja2", "packageurl": "cyclonedx-python-lib", "urllib3": "requests"}
"""Modules that come with a package that is named: they are part of its interface."""


def packages() -> list[str]:
    lines = (ROOT / "requirements" / "host.in").read_text(encoding="utf-8").splitlines()
    return [re.split(r"[=<>;\[ ]", line)[0] for line in lines if line and not line.startswith("#")]


def imported() -> set[str]:
    """Top-level names that the host side imports."""
    names: set[str] = set()
    for path in (ROOT / "tasks.py", *(ROOT / "repro").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", packages())
def test_a_package_of_the_host_side_is_imported_by_it_or_goes(package: str):
    assert MODULE_OF.get(package, package.replace("-", "_")) in imported()


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the list of the standard library's names came with 3.10")
def test_what_the_host_side_imports_is_installed_for_it():
    named = {MODULE_OF.get(package, package.replace("-", "_")) for package in packages()}
    tools = {
        "importlinter",
        "mutmut",
        "vulture",
    }  # of requirements/test.in, for `invoke test` and `invoke mutants` alone
    # "tests": the harness of virtual machines is the tests', and `invoke hosts.run` for developers calls it.
    assert all(package in packages() for package in COMES_WITH.values())
    foreign = imported() - set(sys.stdlib_module_names) - {"repro", "tomli", "tests"} - tools
    assert foreign - named - set(COMES_WITH) == set()
