"""What is done on a host, as shell for its ordinary user; each on golden's small corpus."""

from __future__ import annotations

from tests.hosts.model import Scenario

# Where the machine keeps what it brings back.
BROUGHT = ("record.json", "results.tar", "audit.json")
_UNPACK = """
mkdir -p ~/checkout && tar -xf /carried/checkout.tar -C ~/checkout && cd ~/checkout
if [ -d /carried/cache ]; then mkdir -p artifacts && cp -r /carried/cache artifacts/cache; fi
"""
# Once for both scenarios of a bundle, in whichever comes first.
_INSTALL = """
test "$(ls /sys/class/net)" = lo
if [ ! -d ~/installed ]; then
    tar -xf /carried/bundle.tar install.py
    python3 -I install.py /carried/bundle.tar --key {signer} --to ~/installed
fi
cd ~/installed
"""
_KEEP = """
set +e
cp artifacts/runs/latest/record.json ~/record.json 2>/dev/null
(cd artifacts/store && find . -name result.json) | tar -cf ~/results.tar -C artifacts/store -T - 2>/dev/null
"""


def command(scenario: Scenario, loops: int = 2) -> str:
    """What the user types, in the checkout or in the installed folder; `loops`: timed executions."""
    if scenario.name == "verify":
        return "./bootstrap audit.verify artifacts/received/* --data tests/golden/TIMIT --to audit"
    what = "reproduce" if scenario.until == "report" else f"stage.{scenario.until}"
    words = ["./bootstrap", what, "--bs", str(scenario.batch_size), f"--loop {loops} --decode Beam"]
    words += ["--data tests/golden/TIMIT --checkpoint demo"]
    if scenario.engine != "auto":
        words += ["--engine", scenario.engine]
    if scenario.name == "bundle":
        words += ["--offline"]
    return " ".join(words)


def script(scenario: Scenario, signer: str) -> str:
    """The whole of a scenario.

    Args:
        scenario: which.
        signer: fingerprint of the key that signed the carried bundle.
    """
    before = _UNPACK if scenario.name == "readme" else _INSTALL.format(signer=signer)
    after = "cp audit/audit.json ~/audit.json" if scenario.name == "verify" else _KEEP
    return (
        f"set -eu\nrm -f {' '.join(BROUGHT)}\n{before}\nset +e\n./bootstrap doctor\n{command(scenario)}\ncode=$?\n"
        f"{after}\nexit $code\n"
    )
