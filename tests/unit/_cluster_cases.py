"""Slurm's commands as shell scripts that answer from files: for what a real cluster cannot be made to do on demand."""

from __future__ import annotations

from pathlib import Path

SINFO = """node1|4|16000|npu:2|idle|1-00:00:00|p*
node2|8|32000|npu:2|mixed|1-00:00:00|p*
node10|8|32000|(null)|down*|1-00:00:00|p*
"""


class FakeSlurm:
    """Puts commands into PATH.

    Each prints FOLDER/NAME.out, ends with FOLDER/NAME.code, and appends its words to FOLDER/NAME.asked, and what it was
    given on stdin to FOLDER/NAME.given.
    """

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
        for name in ("sinfo", "squeue", "sbatch", "scancel", "scontrol", "srun"):
            script = folder / "bin" / name
            script.write_text(
                f'#!/bin/sh\necho "$*" >> {folder}/{name}.asked\n'
                f"[ {name} != sbatch ] || cat >> {folder}/{name}.given\n"
                f"[ -e {folder}/{name}.err ] && cat {folder}/{name}.err >&2\n"
                f"[ -e {folder}/{name}.out ] && cat {folder}/{name}.out\n"
                f"exit $(cat {folder}/{name}.code 2>/dev/null || echo 0)\n"
            )
            script.chmod(0o755)
        self.says("sinfo", SINFO)
        self.says("squeue", "")

    def says(self, name: str, text: str, *, error: str = "", code: int = 0) -> None:
        (self.folder / f"{name}.out").write_text(text)
        (self.folder / f"{name}.err").write_text(error)
        (self.folder / f"{name}.code").write_text(str(code))

    def asked(self, name: str) -> list[str]:
        path = self.folder / f"{name}.asked"
        return path.read_text().splitlines() if path.exists() else []
