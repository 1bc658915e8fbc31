"""A translation task whose answers are known: German sentences of a small grammar, and what they mean in English.

What makes translation hard is in it: the verb moves (second in a main clause, last in a subordinate one, participles
at the end), articles and adjectives agree with gender and case, one word stands for several and several for one.
Sentences are pure functions of their number, so that any amount of them can be made and none needs to be stored.
"""

import random
from dataclasses import dataclass

MASCULINE = {
    "Mann": "man", "Hund": "dog", "Lehrer": "teacher", "Vogel": "bird", "Freund": "friend", "König": "king",
    "Arzt": "doctor", "Bäcker": "baker", "Brief": "letter", "Apfel": "apple", "Schlüssel": "key", "Hut": "hat",
    "Tisch": "table", "Kuchen": "cake",
}  # fmt: skip
FEMININE = {
    "Frau": "woman", "Katze": "cat", "Schwester": "sister", "Köchin": "cook", "Nachbarin": "neighbor", "Maus": "mouse",
    "Blume": "flower", "Lampe": "lamp", "Zeitung": "newspaper", "Tasche": "bag", "Birne": "pear", "Uhr": "clock",
}  # fmt: skip
NEUTER = {
    "Kind": "child", "Mädchen": "girl", "Pferd": "horse", "Schaf": "sheep", "Buch": "book", "Brot": "bread",
    "Bild": "picture", "Messer": "knife", "Ei": "egg", "Haus": "house", "Fahrrad": "bicycle", "Geschenk": "gift",
}  # fmt: skip
GENDERS = (MASCULINE, FEMININE, NEUTER)
ALIVE = {
    "Mann", "Hund", "Lehrer", "Vogel", "Freund", "König", "Arzt", "Bäcker", "Frau", "Katze", "Schwester", "Köchin",
    "Nachbarin", "Maus", "Kind", "Mädchen", "Pferd", "Schaf",
}  # fmt: skip
ADJECTIVES = {
    "alt": "old", "klein": "small", "groß": "big", "neu": "new", "schön": "beautiful", "rot": "red", "grün": "green",
    "müd": "tired", "arm": "poor", "freundlich": "friendly", "still": "quiet", "jung": "young",
}  # fmt: skip
# Third person and participle, in German and in English.
SEEING = (
    ("sieht", "gesehen", "sees", "seen"), ("findet", "gefunden", "finds", "found"),
    ("sucht", "gesucht", "looks for", "looked for"), ("kauft", "gekauft", "buys", "bought"),
    ("malt", "gemalt", "paints", "painted"), ("trägt", "getragen", "carries", "carried"),
    ("vergisst", "vergessen", "forgets", "forgotten"), ("verliert", "verloren", "loses", "lost"),
)  # fmt: skip
GIVING = (
    ("gibt", "gegeben", "gives", "given"), ("zeigt", "gezeigt", "shows", "shown"),
    ("bringt", "gebracht", "brings", "brought"), ("schickt", "geschickt", "sends", "sent"),
)  # fmt: skip
TIMES = {
    "heute": "today", "gestern": "yesterday", "jeden Morgen": "every morning", "nachts": "at night", "bald": "soon",
    "im Sommer": "in summer", "am Montag": "on Monday", "nach dem Essen": "after the meal",
}  # fmt: skip
SAYING = {"glaubt": "believes", "weiß": "knows", "sagt": "says", "hofft": "hopes"}
DEFINITE = {"nominative": ("der", "die", "das"), "accusative": ("den", "die", "das"), "dative": ("dem", "der", "dem")}
INDEFINITE = {
    "nominative": ("ein", "eine", "ein"), "accusative": ("einen", "eine", "ein"), "dative": ("einem", "einer", "einem")
}  # fmt: skip
WEAK = {"nominative": ("e", "e", "e"), "accusative": ("en", "e", "e"), "dative": ("en", "en", "en")}
MIXED = {"nominative": ("er", "e", "es"), "accusative": ("en", "e", "es"), "dative": ("en", "en", "en")}


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation."""

    source: str
    target: str


def generated_pair(number: int, *, seed: int = 0) -> Pair:
    """Sentence `number` of an endless list."""
    chooser = random.Random(f"{seed} {number}")
    german, english = _clause(chooser, subordinate=False)
    if chooser.random() < 0.3:
        subject, meaning = _noun(chooser, "nominative", alive=True)
        verb, said = chooser.choice(list(SAYING.items()))
        inner, told = _clause(chooser, subordinate=True)
        german, english = [*subject, verb + ",", "dass", *inner], [*meaning, said, "that", *told]
    source, target = " ".join(german), " ".join(english)
    return Pair(source[0].upper() + source[1:] + ".", target[0].upper() + target[1:] + ".")


def _clause(chooser: random.Random, *, subordinate: bool) -> tuple[list[str], list[str]]:
    """A clause with or without a time, in the present or the perfect; words of both languages."""
    subject, who = _noun(chooser, "nominative", alive=True)
    giving = chooser.random() < 0.4
    verb, participle, does, done = chooser.choice(GIVING if giving else SEEING)
    receiver, whom = _noun(chooser, "dative", alive=True) if giving else ([], [])
    thing, what = _noun(chooser, "accusative", alive=False)
    time, when = chooser.choice(list(TIMES.items())) if chooser.random() < 0.6 else ("", "")
    perfect = chooser.random() < 0.5
    finite, ending = ("hat", [participle]) if perfect else (verb, [])
    objects, times = [*receiver, *thing], time.split()
    if subordinate:
        german = [*subject, *times, *objects, *ending, finite]
    elif time and chooser.random() < 0.5:
        german = [*times, finite, *subject, *objects, *ending]
    else:
        german = [*subject, finite, *times, *objects, *ending]
    acts = ["has", *done.split()] if perfect else does.split()
    english = [*when.split(), *who, *acts, *whom, *what]
    return german, english


def _noun(chooser: random.Random, case: str, *, alive: bool) -> tuple[list[str], list[str]]:
    """Article, perhaps an adjective, noun."""
    nouns = [
        (gender, noun, meaning)
        for gender, words in enumerate(GENDERS)
        for noun, meaning in words.items()
        if not alive or noun in ALIVE
    ]
    gender, noun, meaning = chooser.choice(nouns)
    definite = chooser.random() < 0.6
    article = (DEFINITE if definite else INDEFINITE)[case][gender]
    german, english = [noun], [meaning]
    if chooser.random() < 0.4:
        adjective, quality = chooser.choice(list(ADJECTIVES.items()))
        german.insert(0, adjective + (WEAK if definite else MIXED)[case][gender])
        english.insert(0, quality)
    first = english[0]
    return [article, *german], ["the" if definite else "an" if first[0] in "aeiou" else "a", *english]
