"""Speak texts with espeak-ng and say when each phoneme begins; a program of its own, run by path.

espeak-ng keeps state from one text to the next, so that every utterance needs a fresh process; and its command line
prints no times. This program loads Python and the library once, and forks for each text before the library is
initialised: the same bytes as from a process that starts anew, at an eighth of its time. A fork after the library was
initialised gives other samples for one utterance in five.

On stdin: a JSON line `[voice, words_a_minute, pitch, range, text]` per utterance. On stdout, for each: a JSON line
`{"rate_hz", "samples", "phonemes": [[milliseconds, mnemonic], …]}`, then the samples, 16-bit native-endian. It ends
with its stdin, or with a line on stderr at the first text that cannot be spoken.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

_TIMEOUT_S = 120  # for one text
_AUDIO_SYNCHRONOUS = 2
_BUFFER_MS = 500
_PHONEME_EVENTS = 0x0001
_DO_NOT_EXIT = 0x8000
_EVENT_LIST_TERMINATED = 0
_EVENT_PHONEME = 7
_POSITION_CHARACTER = 1
_CHARACTERS_UTF8 = 1
_PARAMETER_RATE, _PARAMETER_VOLUME, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 2, 3, 4


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def speak(
    library: Any, voice: str, words_a_minute: int, pitch: int, pitch_range: int, text: str
) -> tuple[int, bytes, list[tuple[int, str]]]:
    """(rate in Hz, samples as bytes, [(milliseconds, mnemonic)]), or exits with a line on stderr."""
    rate_hz = library.espeak_Initialize(_AUDIO_SYNCHRONOUS, _BUFFER_MS, None, _PHONEME_EVENTS | _DO_NOT_EXIT)
    if rate_hz <= 0:
        sys.exit("espeak-ng cannot start: its data folder is missing or of another version")
    samples = bytearray()
    phonemes = []

    @_Callback
    def collect(wave: Any, num_samples: int, events: Any) -> int:
        if wave and num_samples > 0:
            samples.extend(ctypes.string_at(wave, num_samples * ctypes.sizeof(ctypes.c_short)))
        index = 0
        while events[index].type != _EVENT_LIST_TERMINATED:
            if events[index].type == _EVENT_PHONEME:
                phonemes.append((events[index].audio_position, events[index].id.string.decode("utf-8")))
            index += 1
        return 0

    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        sys.exit("espeak-ng has no voice " + voice)
    settings = ((_PARAMETER_RATE, words_a_minute), (_PARAMETER_VOLUME, 100))
    for parameter, value in settings + ((_PARAMETER_PITCH, pitch), (_PARAMETER_RANGE, pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)
    encoded = text.encode()
    size = ctypes.c_size_t(len(encoded) + 1)
    if library.espeak_Synth(encoded, size, 0, _POSITION_CHARACTER, 0, _CHARACTERS_UTF8, None, None) != 0:
        sys.exit("espeak-ng cannot speak: " + text)
    library.espeak_Synchronize()
    return rate_hz, bytes(samples), phonemes


def _answer(library: Any, request: bytes) -> None:
    """In a process of its own: speak one text, and print what was spoken."""
    signal.alarm(_TIMEOUT_S)
    rate_hz, samples, phonemes = speak(library, *json.loads(request.decode()))
    header = {"rate_hz": rate_hz, "samples": len(samples) // 2, "phonemes": phonemes}
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + samples)
    sys.stdout.flush()


def main() -> None:
    library = ctypes.CDLL("libespeak-ng.so.1")
    while True:
        request = sys.stdin.buffer.readline()
        if not request:
            return
        process = os.fork()
        if process == 0:
            _answer(library, request)
            os._exit(0)
        status = os.waitpid(process, 0)[1]
        if status != 0:
            if os.WIFSIGNALED(status):
                print("espeak-ng was ended by signal {}".format(os.WTERMSIG(status)), file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
