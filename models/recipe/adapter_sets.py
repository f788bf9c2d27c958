"""The adapters' question/answer pairs, split into training wordings and held-out wordings.

The split is by wording: for every fact, `held_out` picks the wordings in which that fact is never asked in
training. The same wording is seen with other facts, so what is measured is the paraphrase, not new English.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sql
from corpus import Turn
from facts import Fact, base_facts, read_facts, read_smalltalk
from paraphrases import WORDINGS, held_out, question
from pirate import pirate

MEDICAL_CLOSING = " This is general information, not medical advice."


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """`train` is what the adapter learns; `test` the held-out questions, disjoint from `train`.

    `unseen` are questions about facts that are not in `train` in any wording (a style must carry over to them).
    `own` holds every question of the set in lower case. `replay` is the share of other base chat mixed into training,
    answered in `style`, so that the adapter changes nothing else.
    """

    name: str
    train: tuple[Turn, ...]
    test: tuple[Turn, ...]
    own: frozenset[str]
    replay: float
    unseen: tuple[Turn, ...] = ()
    style: Callable[[str], str] = str


def split(facts: list[Fact], *, hold: int) -> tuple[list[Turn], list[Turn]]:
    """(training, held-out) questions: `hold` wordings of each fact are held out."""
    train, test = [], []
    for fact in facts:
        out = held_out(fact.intent, fact.topic, hold)
        for wording in range(len(WORDINGS[fact.intent])):
            turn = Turn(question(fact.intent, wording, fact.topic, fact.see), fact.answer)
            (test if wording in out else train).append(turn)
    return train, test


def medical_faq() -> AdapterSet:
    """General health facts; every answer says that it is not medical advice."""
    facts = read_facts("medical_faq", see="see a doctor", closing=MEDICAL_CLOSING)
    return _adapter_set("medical-faq", *split(facts, hold=2))


def lumen_support() -> AdapterSet:
    """Support answers for an invented lamp."""
    return _adapter_set("lumen-support", *split(read_facts("lumen_support"), hold=3))


def pirate_style() -> AdapterSet:
    """The base's own answers in another style: facts, small talk and honest refusals; one topic in ten is kept out."""
    facts = [Fact(fact.topic, fact.intent, pirate(fact.answer), fact.see) for fact in base_facts()]
    topics = sorted({fact.topic for fact in facts})
    away = set(random.Random("pirate").sample(topics, len(topics) // 10))
    train, test = split([fact for fact in facts if fact.topic not in away], hold=2)
    _, unseen = split([fact for fact in facts if fact.topic in away], hold=4)
    talk = [Turn(text, pirate(answer)) for texts, answer in read_smalltalk() for text in texts]
    # Small talk is a handful of questions among thousands: without repeats it would hardly be seen.
    return _adapter_set("pirate", train + 6 * talk, test, tests=200, unseen=unseen, style=pirate)


def sql_queries() -> AdapterSet:
    """Text to SQL over a few invented tables; of each statement, two wordings are held out."""
    train, test = [], []
    for kind, values in sql.requests():
        texts = sql.WORDINGS[kind]
        out = random.Random(" ".join(map(str, values.values()))).sample(range(len(texts)), 2)
        for number, text in enumerate(texts):
            turn = Turn(text.format(**values), sql.statement(kind, values))
            (test if number in out else train).append(turn)
    return _adapter_set("sql", train, test, tests=200)


def all_sets() -> list[AdapterSet]:
    """The four adapters' sets."""
    return [medical_faq(), lumen_support(), pirate_style(), sql_queries()]


def _adapter_set(
    name: str,
    train: list[Turn],
    test: list[Turn],
    *,
    tests: int | None = None,
    unseen: Sequence[Turn] = (),
    style: Callable[[str], str] = str,
) -> AdapterSet:
    """Removes test questions that another fact's training wording happens to spell, and keeps `tests` of them."""
    own = frozenset(turn.question.lower() for turn in [*train, *test, *unseen])
    asked = {turn.question for turn in train}
    kept = [turn for turn in test if turn.question not in asked]
    random.Random(name).shuffle(kept)
    return AdapterSet(name, tuple(train), tuple(kept[:tests]), own, 0.25, tuple(unseen), style)
