"""The demo corpus's speakers: synthetic voices, each with its own rate, pitch and resampling.

Dev and test speakers carry names from TIMIT's dev and core test lists, because the corpus stage chooses speakers by
those lists; the names of the train speakers are plainly not TIMIT's. No setting of a dev or test speaker is used
for training: their voices are other variants, or the same flite voice at another rate and pitch.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple, Optional, Tuple


class Speaker(NamedTuple):
    """One synthetic speaker.

    Attributes:
        name: the folder's name, 'F' or 'M' first as in TIMIT.
        split: 'train', 'dev' or 'test'.
        region: 1 to 8, of the folder DR1 … DR8; without meaning here.
        synthesiser: 'flite' or 'espeak'.
        voice: flite's voice, or the variant of espeak-ng's en-us.
        speed: flite's duration stretch in percent, or espeak-ng's words a minute.
        pitch: flite's (mean, deviation) of the pitch in Hz, None for the voice's own; espeak-ng's (pitch,
            range), 0 to 99 each.
        warp: playing speed, which moves pitch and formants together (1 = unchanged).
    """

    name: str
    split: str
    region: int
    synthesiser: str
    voice: str
    speed: int
    pitch: Optional[Tuple[int, int]]
    warp: Fraction


def _flite(
    name: str,
    split: str,
    region: int,
    voice: str,
    stretch_percent: int,
    warp_percent: int = 100,
    pitch: tuple[int, int] | None = None,
) -> Speaker:
    return Speaker(name, split, region, "flite", voice, stretch_percent, pitch, Fraction(warp_percent, 100))


def _espeak(
    name: str, split: str, region: int, voice: str, words_a_minute: int, pitch: int, warp_percent: int = 100
) -> Speaker:
    return Speaker(name, split, region, "espeak", voice, words_a_minute, (pitch, 50), Fraction(warp_percent, 100))


SPEAKERS = (
    _flite("FDEMO01", "train", 1, "slt", 115),
    _flite("FDEMO02", "train", 1, "slt", 130, 108),
    _flite("FDEMO03", "train", 1, "slt", 105, 93),
    _flite("MDEMO04", "train", 1, "rms", 100),
    _flite("MDEMO05", "train", 1, "rms", 112, 110),
    _flite("MDEMO06", "train", 1, "rms", 95, 94),
    _flite("MDEMO07", "train", 2, "awb", 120),
    _flite("MDEMO08", "train", 2, "awb", 135, 107),
    _flite("MDEMO09", "train", 2, "kal16", 115, 100, (95, 9)),
    _flite("MDEMO10", "train", 2, "kal16", 130, 105, (125, 14)),
    _flite("MDEMO11", "train", 2, "kal16", 110, 96, (105, 18)),
    _espeak("MDEMO12", "train", 3, "m1", 140, 50),
    _espeak("MDEMO13", "train", 3, "m2", 150, 40),
    _espeak("MDEMO14", "train", 3, "m3", 130, 55, 103),
    _espeak("MDEMO15", "train", 4, "m4", 145, 45, 97),
    _espeak("MDEMO16", "train", 4, "m5", 135, 50),
    _espeak("MDEMO17", "train", 4, "m7", 150, 60),
    _espeak("FDEMO18", "train", 5, "f1", 140, 50),
    _espeak("FDEMO19", "train", 5, "f2", 150, 55),
    _espeak("FDEMO20", "train", 5, "f3", 130, 45, 102),
    _espeak("FDEMO21", "train", 5, "f1", 145, 65, 105),
    _espeak("MDEMO22", "train", 6, "Andy", 140, 50),
    _espeak("FDEMO23", "train", 6, "linda", 140, 50),
    _espeak("MDEMO24", "train", 6, "edward", 145, 45),
    _espeak("FDEMO25", "train", 7, "anika", 140, 50),
    _espeak("MDEMO26", "train", 7, "michel", 150, 50),
    _espeak("MDEMO27", "train", 8, "m1", 155, 30, 94),
    _espeak("FDEMO28", "train", 8, "f2", 142, 60, 97),
    _flite("FAKS0", "dev", 1, "slt", 122, 104),
    _flite("MGWT0", "dev", 2, "rms", 106, 105),
    _flite("MBDG0", "dev", 3, "awb", 128, 97),
    _flite("MJFC0", "dev", 8, "kal16", 120, 102, (112, 12)),
    _espeak("MMJR0", "dev", 5, "m6", 142, 48),
    _espeak("FCMH0", "dev", 3, "f4", 138, 52),
    _espeak("MTDT0", "dev", 4, "m8", 148, 42, 102),
    _espeak("FADG0", "dev", 4, "f5", 142, 58),
    _flite("FELC0", "test", 1, "slt", 118, 97),
    _flite("MWBT0", "test", 1, "rms", 103, 97),
    _flite("MTAS1", "test", 2, "kal16", 122, 99, (118, 16)),
    _espeak("MJMP0", "test", 3, "max", 145, 50),
    _espeak("FPKT0", "test", 3, "aunty", 140, 50),
    _espeak("FJLM0", "test", 4, "f2", 136, 48, 98),
)

SENTENCES_A_SPEAKER = {"train": 40, "dev": 10, "test": 8}
"""Beside SA1 and SA2. 80 dev utterances leave at least one whole batch of 64 to the published protocol."""
