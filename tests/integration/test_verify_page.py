"""verify.html in Chromium: what bundle.verify says of a bundle, in the same words, from disk and without a request."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from repro.audit.bundles import Given, verify_a_bundle
from repro.base.errors import BundleError
from repro.packing.commands import verify_and_describe
from repro.packing.page import verify_page
from repro.packing.writer import Item, write_bundle
from tests.integration._pages import NARROW, WIDE, Opened, opened
from tests.unit import _bundle_cases as cases
from tests.unit._forged_bundles import ODD_HEADS, ODD_LISTS, ODD_MEMBERS, edited

pytestmark = pytest.mark.integration
KEY = cases.signer().fingerprint
OTHER = cases.signer(2).fingerprint
CHANGES = 1000

# Files made in the page of base64 texts, and the outcome without what only the page shows.
_VERIFY = """async ([files, asked]) => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const made = files.map(([name, text]) => new File([bytes(text)], name));
  const { code, message, hint, failures, claims } = await verifier.verifyBundle(made, asked);
  return { code, message, hint, failures, claims };
}"""
# One changed byte after another in one page, by the same path: [[code, message, ...failures], ...].
_CAMPAIGN = """async ([text, keys, changes]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const found = [];
  for (const [position, value] of changes) {
    bytes[position] ^= value;
    const { code, message, failures } = await verifier.verifyBundle([new File([bytes], "small.tar")], {keys});
    bytes[position] ^= value;
    found.push([code, message, ...failures]);
  }
  return found;
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


def by_command(path: Path, key: str) -> tuple[int, str, str, list[str]]:
    """(exit code, message, hint, failures) of `invoke bundle.verify`, without the folder that a path lies in."""
    try:
        return 0, verify_and_describe(str(path), key, first_use=False), "", []
    except BundleError as error:
        said = [text.replace(f"{path.parent}/", "") for text in (error.message, error.hint or "", error.detail or "")]
        return error.exit_code, said[0], said[1], said[2].splitlines()


def assert_same(page: Page, paths: Sequence[Path], key: str = KEY) -> dict[str, Any]:
    """The page ends as the command does, in the same words; what to do may name another way to do it."""
    code, message, _, failures = by_command(paths[0], key)
    found = in_page(page, paths, key)
    assert (found["code"], found["message"], found["failures"]) == (code, message, failures)
    return found


# --- the same outcome


@pytest.mark.parametrize("key", [KEY, KEY.upper(), OTHER, "", "abc", f"{KEY[:8]}:{KEY[8:]}"])
def test_a_sound_bundle_ends_as_bundle_verify_ends(seen: Opened, place: Path, key: str):
    found = assert_same(seen.page, [cases.pack(place)], key)
    assert found["code"] == {KEY: 0, KEY.upper(): 0, OTHER: 3, "": 4, "abc": 2}.get(key, 0)


def test_a_bundle_that_nobody_signed_is_not_verified(seen: Opened, place: Path):
    items = [item for item in cases.files() if not item.path.startswith("attestations/")]
    path = write_bundle(place / "x.tar", items, cases.about(), None, cases.Silent())[0]
    assert assert_same(seen.page, [path], "")["code"] == 4
    assert assert_same(seen.page, [path], KEY)["code"] == 3


def test_licence_notes_a_base_and_a_size_at_a_half_are_told_alike(seen: Opened, place: Path):
    notes = {"cann": "the vendor's", "a\u202eb": "<b>"}
    items = [Item.of_bytes("a", bytes(1_250_000))]
    found = assert_same(
        seen.page, [cases.pack(place, items, base="ab" * 32, contents={"licence_notes": notes})]
    )  # fmt: skip
    assert "1.2 MB" in found["message"] and "a difference" in found["message"]


def test_the_claims_are_those_of_an_audit(seen: Opened, place: Path):
    for key, paths in ((KEY, [cases.pack(place)]), ("", [place / "small.tar"]), (OTHER, [place / "small.tar"])):
        wanted = verify_a_bundle(paths[0], place, Given(keys=[key] if key else [])).as_json()["claims"][:2]
        found = in_page(seen.page, paths, key)["claims"]
        names = {
            "claim": "text",
            "key": "key",
            "status": "status",
            "kind": "kind",
            "findings": "findings",
            "evidence": "evidence",
        }
        told = [{name: claim[ours] for name, ours in names.items()} for claim in found[:2]]
        assert told == [{name: claim[name] for name in names} for claim in wanted]


def test_parts_in_any_order_and_spelling_are_one_bundle(seen: Opened, place: Path):
    cases.pack(place, part_size_bytes=40_000)
    parts = sorted(place.iterdir())
    assert assert_same(seen.page, parts)["code"] == 0
    assert in_page(seen.page, parts[::-1], KEY)["code"] == 0
    there = [part.rename(place / f"SMALL.TAR.{number};1") for number, part in enumerate(parts, 1)]
    assert assert_same(seen.page, there)["code"] == 0


@pytest.mark.parametrize(
    "fault", ["first", "middle", "last", "short", "long", "swapped", "repeated", "surplus", "twice"]
)
def test_faults_of_parts_are_named_alike(seen: Opened, place: Path, fault: str):
    items = [*cases.files(), *(Item.of_bytes(f"tree/more/{n}", cases.noise(9000, str(n))) for n in range(12))]
    cases.pack(place, items, part_size_bytes=40_000)
    parts = sorted(place.iterdir())
    if fault in ("first", "middle", "last"):
        parts.pop({"first": 0, "middle": 1, "last": -1}[fault]).unlink()
    elif fault == "short":
        parts[1].write_bytes(parts[1].read_bytes()[:-1])
    elif fault == "long":
        parts[1].write_bytes(parts[1].read_bytes() + b"x")
    elif fault == "swapped":
        one, other = parts[-2].read_bytes(), parts[-3].read_bytes()
        parts[-2].write_bytes(other)
        parts[-3].write_bytes(one)
    elif fault == "repeated":
        parts[-2].write_bytes(parts[-3].read_bytes())
    elif fault == "surplus":
        parts.append(place / f"small.tar.{len(parts) + 1:03d}")
        parts[-1].write_bytes(parts[0].read_bytes())
    else:
        parts.append(place / "SMALL.TAR.2")
        parts[-1].write_bytes(parts[1].read_bytes())
    code, message, _, failures = by_command(parts[0], KEY)
    found = in_page(seen.page, parts, KEY)
    assert code in (3, 4)
    if fault == "first":  # install.py is told the name of a part, and the page sees all of them
        assert found["code"] == 4
    else:
        assert (found["code"], found["message"], found["failures"]) == (code, message, failures)


@pytest.mark.parametrize("fault", ODD_MEMBERS)
def test_members_that_the_list_does_not_name_are_refused_alike(seen: Opened, place: Path, fault: str):
    path = edited(cases.pack(place), ODD_MEMBERS[fault])
    assert assert_same(seen.page, [path])["code"] == 3


def test_signed_lists_that_are_not_as_they_must_be_are_refused_alike(seen: Opened, place: Path):
    sound = cases.pack(place).read_bytes()
    for fault, change in ODD_LISTS.items():
        (place / "small.tar").write_bytes(sound)
        path = cases.resigned(place / "small.tar", change, cases.signer())
        assert assert_same(seen.page, [path])["code"] == 3, fault


def test_heads_that_are_no_lists_are_refused_alike(seen: Opened, place: Path):
    sound = cases.pack(place)
    for fault, head in ODD_HEADS.items():
        path = cases.replace_head(place / "x.tar", head(sound), bytes(1024))
        assert assert_same(seen.page, [path], "")["code"] == 3, fault


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 5000, 70_000, -1025, -1])
def test_a_bundle_cut_short_is_refused_alike(seen: Opened, place: Path, keep: int):
    path = cases.pack(place)
    path.write_bytes(path.read_bytes()[:keep])
    assert assert_same(seen.page, [path])["code"] == 3


def test_something_behind_the_end_is_refused_alike(seen: Opened, place: Path):
    path = cases.pack(place)
    path.write_bytes(path.read_bytes() + b"x")
    assert assert_same(seen.page, [path])["code"] == 3


def test_a_thousand_changed_bytes_are_refused_in_install_pys_words(seen: Opened, place: Path, capsys):
    path = cases.pack(place)
    sound = path.read_bytes()
    changes = list(cases.changes(path, CHANGES))
    found = seen.page.evaluate(
        _CAMPAIGN, [base64.b64encode(sound).decode(), KEY, [change[1:] for change in changes]]
    )  # fmt: skip
    for (what, position, value), (code, message, *failures) in zip(changes, found):
        damaged = bytearray(sound)
        damaged[position] ^= value
        path.write_bytes(damaged)
        assert (code, message, failures) == (3, *by_command(path, KEY)[1::2]), (what, position)
    assert len(found) == CHANGES
    with capsys.disabled():
        print(f"\n{CHANGES} single-byte changes, all refused by the page in the words of bundle.verify")


# --- what a person sees


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
        assert seen.page.locator("#every tbody tr").count() == len(cases.files())
        seen.page.click("[data-tongue=zh]")
        assert seen.page.locator("html").get_attribute("lang") == "zh-CN" and "验证通过" in told(seen)
        seen.finish()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
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
        for paths, key in (([path], KEY), ([path], ""), ([damaged], KEY)):
            verify_in(seen, paths, key)
            for summary in seen.page.locator("summary").all():
                summary.click()
            assert seen.serious() == []
            seen.fits()
        seen.finish()


def test_files_that_are_dropped_are_verified(browser: Browser, file: Path, place: Path):
    cases.pack(place, part_size_bytes=40_000)
    texts = [(part.name, base64.b64encode(part.read_bytes()).decode()) for part in sorted(place.iterdir())]
    drop = """(files) => {
      const transfer = new DataTransfer();
      for (const [name, text] of files) {
        transfer.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name));
      }
      document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
    }"""
    with opened(browser, file) as seen:
        seen.page.evaluate(drop, texts)
        assert "small.tar.003" in seen.page.inner_text("#chosen")
        seen.page.click("#start")
        seen.page.wait_for_selector("#save")
        assert "names no key" not in told(seen) and "Not verified" in told(seen)
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
    for _ in range(2):
        with opened(browser, file) as seen:
            verify_in(seen, [path], KEY)
            saved = []
            for button in seen.page.locator("#save button").all():
                with seen.page.expect_download() as download:
                    button.click()
                saved.append(Path(download.value.path()).read_bytes())
            pages.append(saved)
            seen.finish()
    assert pages[0] == pages[1], "equal outcomes give equal bytes"
    page, document = pages[0][0], json.loads(pages[0][1])
    assert document["claims"][:2] == wanted["claims"][:2] and set(document) == set(wanted)
    assert document["subject"] == wanted["subject"] and document["facts"] == wanted["facts"][:1]
    assert b"<script" not in page and b"script-src" not in page and b"default-src 'none'" in page
    (place / "audit.html").write_bytes(page)
    with opened(browser, place / "audit.html", NARROW) as seen:
        assert "Verified" in seen.page.inner_text("body") and "Auditor" in seen.page.inner_text("body")
        assert seen.serious() == []
        seen.fits()
        seen.finish()


def test_large_files_are_hashed_in_workers_and_a_verification_can_be_stopped(browser: Browser, file: Path, place: Path):
    large = place / "large"
    with open(large, "wb") as stream:
        for number in range(8):
            stream.write(cases.noise(4 << 20, str(number)))
    items = [*cases.files(), *(Item.of_file(f"tree/large/{number}", large) for number in range(2))]
    path = cases.pack(place, items)
    with opened(browser, file) as seen:
        verify_in(seen, [path], KEY)
        assert "Verified" in told(seen)
        assert sum(url.startswith("blob:") for url in seen.requests) >= 2
        damaged = path.rename(place / "damaged.tar")
        with open(damaged, "r+b") as stream:
            stream.seek(40 << 20)
            stream.write(b"\0\0\0\0")
        verify_in(seen, [damaged], KEY)
        assert "Refused" in told(seen) and "tree/large/1: its content has sha256" in told(seen)
        seen.page.click("#start")
        seen.page.click("#stop")
        seen.page.wait_for_selector("#save")
        assert "stopped before the end" in told(seen)
        seen.finish()


def test_the_page_is_the_same_bytes_each_time_and_holds_nothing_from_elsewhere():
    page = verify_page()
    assert page == verify_page() and page.isascii() is False
    for word in (b"http://", b"https://", b"url(", b"@import", b"eval(", b"innerHTML", b"@SCRIPT@"):
        found = [line for line in page.split(b"\n") if word in line and not line.startswith(b"const ")]
        assert found == [], word
