"""A large bundle verified by verify.html in headless Chromium: how long it takes, and that memory stays flat.

    .venv/bin/python -m tests.campaigns.verify_page                 1 GB in one file: a minute
    .venv/bin/python -m tests.campaigns.verify_page --parts         the same in parts of 300 MB

It prints what bundle.verify and the page say, and the memory of all of Chromium's processes together (proportional set
size): with the page open, at most while it verified, and the difference. It ends with 1 where that is over 300 MiB, or
the outcomes differ.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from repro.packing.commands import verify_and_describe
from repro.packing.page import verify_page
from repro.packing.writer import Item
from tests.integration._pages import chromium, opened
from tests.unit import _bundle_cases as cases

_MOST_GROWTH_BYTES = 300 << 20
_LARGE = (400, 250, 120, 60, 30, 20)  # MB: layers of images
_SMALL = 1200  # files of about 100 kB: the repository and wheels


def large_bundle(folder: Path, part_size_bytes: int) -> list[Path]:
    """A bundle of 1 GB with large files and many small ones."""
    block = cases.noise(1 << 20, "large")
    items = list(cases.files())
    for megabytes in _LARGE:
        path = folder / f"large-{megabytes}"
        with open(path, "wb") as stream:
            for number in range(megabytes):
                stream.write(number.to_bytes(4, "big") + block[4:])
        items.append(Item.of_file(f"tree/artifacts/oci/{path.name}", path))
    items += [Item.of_bytes(f"tree/small/{number}", cases.noise(100_000, str(number))) for number in range(_SMALL)]
    (folder / "bundle").mkdir()
    cases.pack(folder / "bundle", items, part_size_bytes=part_size_bytes)
    return sorted((folder / "bundle").iterdir())


def _below(parent: int) -> Iterator[int]:
    """The processes that a process started, and those that they started."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            above = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(above, []).append(int(entry))
    pending = children.get(parent, [])
    while pending:
        pid = pending.pop()
        yield pid
        pending += children.get(pid, [])


def memory_bytes() -> int:
    """Of all of Chromium's processes together, what they share counted once."""
    total = 0
    for pid in _below(os.getpid()):
        try:
            if "chrom" in os.readlink(f"/proc/{pid}/exe"):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total


class Watch:
    """The most memory that Chromium took while this was entered."""

    def __enter__(self) -> Watch:
        self.most_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self.most_bytes = max(self.most_bytes, memory_bytes())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def main() -> int:
    """Pack, verify in both ways, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", action="store_true", help="cut into parts of 300 MB")
    asked = parser.parse_args()
    key = cases.signer().fingerprint
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        files = large_bundle(folder, 300_000_000 if asked.parts else 0)
        size_bytes = sum(file.stat().st_size for file in files)
        began_s = time.monotonic()
        wanted = verify_and_describe(str(files[0]), key, first_use=False)
        print(f"bundle.verify: {size_bytes / 1e6:.0f} MB in {time.monotonic() - began_s:.1f} s", flush=True)
        (folder / "verify.html").write_bytes(verify_page())
        with opened(browser, folder / "verify.html") as seen:
            seen.page.evaluate("""() => {
              const input = document.getElementById("files");
              window.asked = (key) => verifier.verifyBundle([...input.files], {keys: key}).then(({message}) => message);
            }""")
            seen.page.set_input_files("#files", files)
            time.sleep(2)
            before_bytes = memory_bytes()
            began_s = time.monotonic()
            with Watch() as watch:
                found = seen.page.evaluate("(key) => asked(key)", key)
            took_s = time.monotonic() - began_s
            workers = sum(url.startswith("blob:") for url in seen.requests)
            seen.finish()
    growth_bytes = watch.most_bytes - before_bytes
    print(f"verify.html: {took_s:.1f} s, {size_bytes / 1e6 / took_s:.0f} MB/s, {workers} workers")
    print(
        f"memory: {before_bytes >> 20} MiB before, {watch.most_bytes >> 20} MiB at most, {growth_bytes >> 20} MiB more"
    )
    print("the same outcome" if found == wanted else f"OTHER OUTCOMES:\n{wanted}\n--\n{found}")
    return int(found != wanted or growth_bytes > _MOST_GROWTH_BYTES)


if __name__ == "__main__":
    sys.exit(main())
