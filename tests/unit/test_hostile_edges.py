"""Small edges that hostile text or a broken machine reaches: each ends with its own error, never as a defect."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.base import user_lock
from repro.base.errors import UsageError, VerificationFailed
from repro.base.paths import Paths
from repro.base.system_errors import can_be_mended
from repro.record import read_record

ROOT = Path(__file__).resolve().parents[2]


def test_a_name_in_a_record_that_looks_like_a_place_is_no_defect():
    with pytest.raises(VerificationFailed, match=r"record\.json"):
        read_record('{"x` - at `$.²": 1}'.encode(), what="record.json")


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"sources": []}', "{"])
def test_a_lock_of_the_user_that_is_none_is_wrong_use(tmp_path: Path, text: str):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "user.lock.json").write_text(text)
    with pytest.raises(UsageError, match=r"user\.lock\.json"):
        user_lock.read(Paths(tmp_path))


@pytest.mark.parametrize("name", ["EFBIG", "EBUSY", "ENOTCONN", "ETIMEDOUT", "ENETUNREACH", "EILSEQ"])
def test_what_a_disk_or_a_mount_refuses_is_no_defect_of_the_program(name: str):
    assert can_be_mended(OSError(getattr(errno, name), "x"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_text_for_a_full_stderr_never_ends_with_the_code_of_not_reproduced():
    code = "import sys; from repro.cli import ending; sys.exit(ending.run(lambda: sys.exit('text')))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=full, check=False)
    assert done.returncode == 4
