"""verify.html in Chromium as a person meets it: from disk, without a request, on a phone, by keyboard, in the dark."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from repro.audit.bundles import Given, verify_a_bundle
from repro.packing.page import verify_page
from repro.packing.resign import resign
from repro.packing.writer import Item
from tests.integration._pages import NARROW, WIDE, Opened, opened
from tests.integration._verify_page import KEY, OTHER, file, place
from tests.unit import _bundle_cases as cases

__all__ = ["file", "place"]  # fixtures


def verify_in(seen: Opened, paths: Sequence[Path], key: str) -> None:
    """Choose files, name a key, verify, as a person does."""
    seen.page.set_input_files("#files", paths)
    seen.page.fill("#key", key)
    seen.page.press("#start", "Enter")
    seen.page.wait_for_selector("#save")


def told(seen: Opened) -> str:
    return seen.page.inner_text("#outcome")


def test_by_keyboard_a_sound_bundle_shows_who_signed_what_is_in_it_and_what_is_claimed(
    browser: Browser, file: Path, place: Path
):
    path = cases.pack(place)
    with opened(browser, file) as seen:
        verify_in(seen, [path], KEY)
        text = told(seen)
        assert "Verified" in text and "This is the key that you named." in text and "not-comparable" in text
        assert "".join(seen.page.locator(".digits span").all_inner_texts()) == KEY
        assert seen.page.locator("#outcome").evaluate("(element) => element === document.activeElement")
        seen.page.locator("#every summary").press("Enter")
        seen.page.locator("#every tbody tr").last.wait_for()
        assert seen.page.locator("#every tbody tr").count() == len(cases.files())
        seen.page.click("[data-tongue=zh]")
        assert seen.page.locator("html").get_attribute("lang") == "zh-CN" and "校验通过" in told(seen)
        seen.finish()


@pytest.mark.parametrize(("width", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_it_is_read_on_a_phone_and_by_a_screen_reader(
    browser: Browser, file: Path, place: Path, width: int, scheme: str
):
    path = cases.pack(place, contents={"licence_notes": {"checkpoint": "w" * 300}})
    damaged = place / ("d" * 200 + ".tar")
    data = bytearray(path.read_bytes())
    for name, offset, _ in cases.layout(path):
        if name.startswith("content"):
            data[offset] ^= 1
    damaged.write_bytes(data)
    with opened(browser, file, width, color_scheme=scheme) as seen:
        assert seen.serious() == []
        for paths, key in (([path], ""), ([damaged], KEY)):
            verify_in(seen, paths, key)
            for summary in seen.page.locator("summary").all():
                summary.click()
            assert seen.serious() == []
            seen.fits()
            seen.keep(f"verify-{'damaged' if damaged in paths else 'sound'}")
        seen.finish()


def test_files_that_are_dropped_are_verified_and_a_folder_is_named(browser: Browser, file: Path, place: Path):
    path = cases.pack(place, part_size_bytes=40_000)
    folder = resign(path, cases.signer(2))
    files = [
        *sorted(part for part in place.iterdir() if part.is_file()),
        *folder.rglob("*.json"),
        *folder.rglob("*.pem"),
    ]
    with opened(browser, file) as seen:
        box = seen.page.locator("#drop").bounding_box()
        session = seen.page.context.new_cdp_session(seen.page)

        def drop(given: Sequence[Path]) -> str:
            data = {"items": [], "files": [str(path) for path in given], "dragOperationsMask": 1}
            for kind in ("dragEnter", "dragOver", "drop"):
                session.send(
                    "Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data}
                )
            seen.page.locator("#chosen", has_text="MB").wait_for()
            return seen.page.inner_text("#chosen")

        assert "A folder cannot be read from here" in drop([path, folder])
        chosen = drop(files)
        assert "small.tar.001" in chosen and "+ 3 files" in chosen and "folder" not in chosen
        seen.page.fill("#key", OTHER)
        seen.page.click("#start")
        seen.page.wait_for_selector("#save")
        assert "Verified" in told(seen)
        signers = " ".join(seen.page.locator("section:has(> .digits)").inner_text().replace("\n", "").split())
        assert signers.endswith(f"The list is also signed by{OTHER}This is the key that you named.")
        seen.finish()


MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
DISGUISED = "\u202etxt.exe\x1b[31m\u200b"


def test_what_strangers_wrote_is_shown_as_text(browser: Browser, file: Path, place: Path):
    record = {"verdict": {"outcome": MARKUP + DISGUISED}, "results": [{"batch_size": MARKUP}], "data": {"kind": MARKUP}}
    images = {MARKUP: {MARKUP: {"image_id": DISGUISED}}}
    contents = {"tree/artifacts/received/RUN/record.json": record, "images.json": images}
    items = [Item.of_bytes(name, json.dumps(document).encode()) for name, document in contents.items()]
    path = cases.pack(place, items, contents={"licence_notes": {MARKUP: MARKUP + DISGUISED}})
    named = path.rename(place / f"x{MARKUP.replace('/', '')}{DISGUISED}.tar")
    with opened(browser, file) as seen:
        for key in (KEY, OTHER):
            verify_in(seen, [named], key)
            for summary in seen.page.locator("summary").all():
                summary.click()
            assert seen.page.locator("#outcome :is(img, script)").count() == 0
        verify_in(seen, [named], KEY)
        assert MARKUP in told(seen) and "\\u202etxt.exe\\x1b[31m\\u200b" in told(seen)
        assert not set(DISGUISED) & {"\u202e", "\x1b", "\u200b"} & set(seen.page.inner_text("body"))
        seen.finish()


def test_no_connection_can_be_made(browser: Browser, file: Path):
    attempts = """async (address) => {
      const tries = {
        fetch: () => fetch(address),
        image: () => new Promise((onload, onerror) => Object.assign(new Image(), {onload, onerror, src: address})),
        script: () => import(`${address}x.js`),
        evaluated: async () => new Function("return 1")(),
        beacon: async () => { if (!navigator.sendBeacon(address)) throw new Error("refused"); },
        worker: () => new Promise((done, fail) => {
          const text = `fetch('${address}').then(() => postMessage(1), () => postMessage(0))`;
          const worker = new Worker(URL.createObjectURL(new Blob([text])));
          worker.onmessage = ({data}) => data ? done() : fail();
          worker.onerror = fail;
        }),
      };
      const made = [];
      for (const [name, attempt] of Object.entries(tries)) await attempt().then(() => made.push(name), () => {});
      return made;
    }"""
    with opened(browser, file) as seen, socket.create_server(("127.0.0.1", 0)) as server:
        refused = []
        seen.page.expose_function("refusedByPolicy", lambda directive: refused.append(directive))
        listen = "document.addEventListener('securitypolicyviolation', (e) => refusedByPolicy(e.effectiveDirective))"
        seen.page.evaluate(listen)
        made = seen.page.evaluate(attempts, f"http://127.0.0.1:{server.getsockname()[1]}/")
        assert set(made) <= {"evaluated", "beacon"}, "a beacon is refused after it was taken"
        seen.page.wait_for_timeout(200)
        assert {"connect-src", "img-src"} <= set(refused)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_audits_page_is_saved_without_a_script_and_its_json_is_an_audits(browser: Browser, file: Path, place: Path):
    path = cases.pack(place)
    wanted = verify_a_bundle(path, place, Given(keys=[KEY])).as_json()
    pages = []
    for look in (False, True):
        with opened(browser, file) as seen:
            verify_in(seen, [path], KEY)
            for summary in seen.page.locator("#outcome summary").all() if look else ():
                summary.click()
            saved = []
            for button in seen.page.locator("#save button").all():
                with seen.page.expect_download() as download:
                    button.click()
                saved.append(Path(download.value.path()).read_bytes())
            pages.append(saved)
            seen.finish()
    assert pages[0] == pages[1], "equal outcomes give equal bytes"
    page, document = pages[0][0], json.loads(pages[0][1])
    assert document["claims"] == wanted["claims"][:3] and set(document) == set(wanted)
    assert document["looked_at"] == wanted["looked_at"] and document["facts"] == wanted["facts"][:1]
    for name in ("schema", "version", "kind", "subject"):
        assert document[name] == wanted[name]
    assert b"<script" not in page and b"script-src" not in page and b"default-src 'none'" in page
    (place / "audit.html").write_bytes(page)
    with opened(browser, place / "audit.html", NARROW) as seen:
        for text in ("Verified", "Auditor", "small.tar", "run-20260101T000000Z"):
            assert text in seen.page.inner_text("body")
        assert seen.serious() == []
        seen.fits()
        seen.finish()


def test_large_files_are_hashed_in_workers_and_a_verification_can_be_stopped(browser: Browser, file: Path, place: Path):
    large = place / "large"
    with open(large, "wb") as stream:
        for number in range(3):
            stream.write(cases.noise(4 << 20, str(number)))
    items = [*cases.files(), *(Item.of_file(f"tree/large/{number}", large) for number in range(2))]
    path = cases.pack(place, items)
    with opened(browser, file) as seen:
        verify_in(seen, [path], KEY)
        assert "Verified" in told(seen)
        assert sum(url.startswith("blob:") for url in seen.requests) >= 2
        damaged = path.rename(place / "damaged.tar")
        with open(damaged, "r+b") as stream:
            stream.seek(20 << 20)
            stream.write(b"\0\0\0\0")
        verify_in(seen, [damaged], KEY)
        assert "Refused" in told(seen) and "tree/large/1: its content has sha256" in told(seen)
        # In one task of the page: between two clicks from here it could come to its end.
        seen.page.evaluate("for (const name of ['start', 'stop']) document.getElementById(name).click()")
        seen.page.wait_for_selector("#save")
        assert "stopped before the end" in told(seen)
        seen.finish()


@pytest.mark.parametrize("worker", ["undefined", "Broken"])
def test_where_the_browser_starts_no_worker_the_page_hashes_by_itself(
    browser: Browser, file: Path, place: Path, worker: str
):
    items = [*cases.files(), *(Item.of_bytes(f"tree/large/{n}", cases.noise(5 << 20, str(n))) for n in range(3))]
    path = cases.pack(place, items)
    broken = "class Broken extends Worker { constructor() { super(URL.createObjectURL(new Blob(['throw 1']))); } }"
    with opened(browser, file) as seen:
        seen.page.evaluate(f"() => {{ {broken}; globalThis.Worker = {worker}; }}")
        verify_in(seen, [path], KEY)
        assert "Verified" in told(seen)
        if worker != "Broken":  # whose own error the console shows
            seen.finish()


def test_the_page_is_the_same_bytes_each_time_and_holds_nothing_from_elsewhere():
    page = verify_page()
    assert page == verify_page() and page.isascii() is False
    for word in (b"http://", b"https://", b"url(", b"@import", b"eval(", b"innerHTML", b"@SCRIPT@"):
        found = [line for line in page.split(b"\n") if word in line and not line.startswith(b"const ")]
        assert found == [], word
