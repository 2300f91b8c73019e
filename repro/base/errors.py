"""Every error that the host side raises on purpose, and the exit code each one maps to.

'Verification failed' (the bytes are there and they are wrong) and 'could not verify' (the bytes, a tool or a
machine are missing) are different types with different exit codes, and neither is ever raised for the other.
"""

from __future__ import annotations

from repro.base.foreign import shown

_DIAGNOSTICS_LIMIT = 20_000  # characters
EXIT_OK = 0
EXIT_NOT_REPRODUCED = 1
EXIT_USAGE = 2
EXIT_VERIFICATION_FAILED = 3
EXIT_COULD_NOT = 4
EXIT_DEFECT = 70  # sysexits' EX_SOFTWARE
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 141  # what a shell shows of a program that SIGPIPE ended


class BundleError(Exception):
    """Base class: one line that says what is wrong and where, then what to do next.

    Args:
        message: what happened, to which file or step, and why; one line.
        hint: what a person should do next; one or more lines, may be empty.
        detail: longer evidence (a log's tail, a list of files), shown below the message.
    """

    exit_code = EXIT_COULD_NOT

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    def diagnostics(self) -> str:
        """The whole text for a terminal: message, detail indented, then the hint; harmless whoever wrote them."""
        lines = [f"error: {_plain(self.message)}"]
        lines += ["  " + line for line in _plain(self.detail.rstrip()).split("\n") if self.detail]
        lines += ["-> " + line for line in _plain(self.hint.rstrip()).split("\n") if self.hint]
        return "\n".join(lines)


def _plain(text: str) -> str:
    return shown(text.expandtabs(), _DIAGNOSTICS_LIMIT, lines=True)


class UsageError(BundleError):
    """The command line, a configuration file or an option's value is wrong."""

    exit_code = EXIT_USAGE


class VerificationFailed(BundleError):  # noqa: N818 - the project's word for this outcome
    """Bytes were present and do not match their digest, signature or declared content."""

    exit_code = EXIT_VERIFICATION_FAILED


class NonDeterministicResult(VerificationFailed):
    """The same fingerprint gave different bytes twice."""


class NotPlain(VerificationFailed):
    """Where a plain file or folder was expected lies something else: a link, a FIFO, an odd name, too much of it."""


class CouldNotVerify(BundleError):  # noqa: N818 - likewise
    """Something needed for a verification is missing; nothing is known to be wrong."""


class CouldNotRun(BundleError):  # noqa: N818 - likewise
    """A step could not be carried out: a missing file, tool, engine, disk space, permission."""


class FetchError(CouldNotRun):
    """No source delivered a locked file."""


class EngineUnavailable(CouldNotRun):
    """An engine is absent, half there, too old, remote, or forbidden by the kernel."""


class StageFailed(CouldNotRun):
    """A stage's container ended with an error, ran out of time or memory."""
