"""The demo corpus's sentences: a small grammar over an own word list, drawn the same way on every machine.

The words are chosen so that all 39 phones of the recogniser occur many times in every split.
"""

from __future__ import annotations

import hashlib
from typing import Iterator, Sequence

_DETERMINERS = "the a this that our your her their another every".split()
_ADJECTIVES = (
    "yellow quiet broken gentle noisy purple frozen narrow rusty bitter heavy shallow curious wooden thirsty cheerful "
    "foggy brave giant lonely smooth azure royal loud thin worthy usual faded joyful orange dull good coarse weird "
    "young huge zesty vague muddy paved hollow earthy ashen polished crooked silver moist soothing famous"
).split()
_NOUNS = (
    "otter kitchen bridge lantern garden engine pillow village tiger basket mirror teacher window thunder ladder "
    "butter whistle cushion vision treasure voyage oyster boiler foil toy valley feather path mouth judge jacket "
    "chapel orchard hammer puzzle zebra yacht canyon finger singer hook wolf book cloud tower flower bird nurse shirt "
    "church beach leather author goose moon shoe rocket magnet sugar bush pigeon garage beige mouse sofa cabin bucket "
    "puddle river wagon onion yogurt hedge ocean measure harbour violin kettle sparrow chimney thimble"
).split()
_PLURALS = (
    "boys houses cages matches roses dishes voices toys shadows noises clouds peaches journeys jewels thieves youths "
    "birds oysters measures cookies yards lanterns feathers wagons"
).split()
_TRANSITIVE_PAST = (
    "pushed measured followed carried painted opened found joined watched caught visited choked heard wanted borrowed "
    "touched noticed pulled guarded chased washed enjoyed avoided collected shared threw buried loved cooked dropped "
    "fixed judged polished repaired"
).split()
_TRANSITIVE = (
    "push measure follow carry paint open find join watch catch visit hear borrow touch notice pull guard chase wash "
    "enjoy avoid collect share throw bury love cook drop fix judge polish repair"
).split()
_INTRANSITIVE_PAST = (
    "vanished whispered laughed danced waited slipped howled yawned jumped grew floated coughed stumbled sneezed "
    "settled marched"
).split()
_ADVERBIALS = (
    "slowly",
    "quickly",
    "today",
    "yesterday",
    "together",
    "again",
    "outside",
    "loudly",
    "now",
    "rarely",
    "very well",
    "at noon",
    "after dinner",
    "before sunrise",
    "without a sound",
)
_PREPOSITIONS = "under behind above near around beyond toward through with without inside".split()
_SUBJECTS = "she he they we you nobody someone everybody Oscar Judith Zoe Warren Floyd Martha Hugo Yvonne".split()
_MODALS = "could should might would will may".split()
_NUMBERS = "two three four five six seven eight nine ten eleven twelve thirteen twenty thirty".split()

SHARED_SENTENCES = (
    "My sister keeps a yellow jacket and two thin leather books near the garage door.",
    "They told us that our voyage would measure about four hundred joyful miles.",
)
"""What every speaker says, as SA1 and SA2: the corpus stage must leave these out."""


class _Draw:
    """A stream of choices made by hashing a counter: Python's `random` is not promised equal between versions."""

    def __init__(self, seed: str | int) -> None:
        self._seed = seed
        self._count = 0

    def below(self, limit: int) -> int:
        """An int in [0, limit); the bias of the modulo is below 2**-50."""
        self._count += 1
        digest = hashlib.sha256("{}:{}".format(self._seed, self._count).encode()).digest()
        return int.from_bytes(digest[:8], "big") % limit

    def one(self, words: Sequence[str]) -> str:
        return words[self.below(len(words))]

    def percent(self, chance: int) -> bool:
        return self.below(100) < chance


def _noun_phrase(draw: _Draw, adjective_percent: int) -> str:
    determiner = draw.one(_DETERMINERS)
    noun = draw.one(_NOUNS)
    if draw.percent(adjective_percent):
        noun = draw.one(_ADJECTIVES) + " " + noun
    if determiner == "a" and noun[0] in "aeiou":
        determiner = "an"
    return determiner + " " + noun


def _sentence(draw: _Draw) -> str:
    kind = draw.below(10)
    if kind == 0:
        words = [_noun_phrase(draw, 50), draw.one(_TRANSITIVE_PAST), _noun_phrase(draw, 40)]
    elif kind == 1:
        words = [draw.one(_SUBJECTS), draw.one(_TRANSITIVE_PAST), _noun_phrase(draw, 60), draw.one(_ADVERBIALS)]
    elif kind == 2:
        words = [
            _noun_phrase(draw, 50),
            draw.one(_INTRANSITIVE_PAST),
            draw.one(_PREPOSITIONS),
            _noun_phrase(draw, 30),
        ]
    elif kind == 3:
        words = [draw.one(_SUBJECTS), draw.one(_MODALS), draw.one(_TRANSITIVE), _noun_phrase(draw, 50)]
        words += [draw.one(_PREPOSITIONS), _noun_phrase(draw, 20)]
    elif kind == 4:
        words = [draw.one(_NUMBERS), draw.one(_ADJECTIVES), draw.one(_PLURALS), draw.one(_INTRANSITIVE_PAST)]
        words.append(draw.one(_ADVERBIALS))
    elif kind == 5:
        words = ["why did", draw.one(_SUBJECTS), draw.one(_TRANSITIVE), _noun_phrase(draw, 50)]
    elif kind == 6:
        words = [draw.one(_SUBJECTS), draw.one(_TRANSITIVE_PAST), draw.one(_NUMBERS), draw.one(_ADJECTIVES)]
        words.append(draw.one(_PLURALS))
    elif kind == 7:
        words = [_noun_phrase(draw, 30), "and", _noun_phrase(draw, 30), draw.one(_INTRANSITIVE_PAST)]
        words.append(draw.one(_ADVERBIALS))
    elif kind == 8:
        words = ["please", draw.one(_TRANSITIVE), _noun_phrase(draw, 70)]
        words += [draw.one(_PREPOSITIONS), _noun_phrase(draw, 20)]
    else:
        words = [draw.one(_ADVERBIALS) + ",", draw.one(_SUBJECTS), draw.one(_INTRANSITIVE_PAST)]
        words += [draw.one(_PREPOSITIONS), _noun_phrase(draw, 40)]
    text = " ".join(words)
    return text[0].upper() + text[1:] + "."


def sentences(seed: str | int) -> Iterator[str]:
    """An endless iterator of sentences, no two equal: capital first, full stop last."""
    draw = _Draw(seed)
    said = set(SHARED_SENTENCES)
    while True:
        text = _sentence(draw)
        if text not in said:
            said.add(text)
            yield text


def words_of(text: str) -> list[str]:
    """The words as the .WRD file holds them: lower case, no punctuation."""
    return [word.strip(",.").lower() for word in text.split()]
