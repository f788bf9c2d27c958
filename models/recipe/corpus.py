"""What the base is taught: single questions with answers, drawn at random and put together to chats."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import sql
from facts import Fact, base_facts, read_facts, read_smalltalk, read_unknown
from paraphrases import WORDINGS, question

MODEST = "I am a small demonstration model, and I "
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer in plain English.",
    "Answer briefly.",
    "You are a careful assistant. Say so when you do not know something.",
    "Be polite and clear.",
    "You are an assistant in a desktop program.",
)
NAMES = ("Anna", "Tom", "Lisa", "Ben", "Maria", "Paul", "Nina", "Sam", "Julia", "Omar", "Kim", "Leo", "Ada", "Max")
_NO_NOUN = {"howto", "trouble", "capital", "opposite"}
_GREETINGS = ("Hello! ", "Hi, ", "Hey, ", "Excuse me, ", "Please: ", "A question: ", "Good morning! ")
_ONSETS = (
    "b",
    "br",
    "c",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "qu",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
    "sh",
    "th",
    "y",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "io", "ou")
_CODAS = ("", "", "n", "r", "l", "s", "m", "t", "x", "ck", "nd", "st", "ph")
_ENDINGS = ("", "", "", "ism", "itis", "osis", "er", "ing", "ia", "ol", "ness")


@dataclass(frozen=True, slots=True)
class Turn:
    """One question of the user and the answer the model shall give."""

    question: str
    answer: str


def refusal(kind: str, topic: str) -> str:
    """The honest answer about something the base was not taught, in the user's words."""
    yours = " ".join("your" if word == "my" else word for word in topic.split())
    endings = {
        "noun": f"do not know about {yours}.",
        "action": f"do not know how to {yours}.",
        "complaint": "do not know what to do about that.",
        "request": "do not know how to answer that.",
    }
    return MODEST + endings[kind]


def kind_of(intent: str) -> str:
    """Which kind of refusal belongs to an intent."""
    return {"howto": "action", "trouble": "complaint"}.get(intent, "noun")


class Corpus:
    """Draws the turns and chats of the base's training text from one random stream."""

    def __init__(self, rng: random.Random, *, echo_words: Sequence[str] = (), echo_weight: int = 9) -> None:
        """`echo_words` are what the copying task draws from (default: the words of the facts)."""
        self._rng = rng
        self._echo_weight = echo_weight
        self._facts = base_facts()
        self._talk = read_smalltalk()
        self._unknown = read_unknown()
        self._strangers = read_facts("medical_faq", see="see a doctor") + read_facts("lumen_support")
        self._requests = list(sql.requests())
        self._taught = {(fact.topic, fact.intent) for fact in self._facts}
        self._nouns = sorted({fact.topic for fact in self._facts if fact.intent not in _NO_NOUN})
        self._words = self._all_words()
        self._echo_words = echo_words or self._words

    def turn(self) -> Turn:
        """One question and answer of any kind."""
        kinds = (
            self._known,
            self._smalltalk,
            self._made_up,
            self._listed,
            self._stranger,
            self._echo,
            self._name,
            self._off_topic,
        )
        draw = self._rng.choices(kinds, weights=(50, 10, 12, 9, 7, self._echo_weight, 2, 3))[0]
        turn = draw()
        return turn if draw == self._echo else Turn(self.vary(turn.question), turn.answer)

    def chat(self, turns: int) -> tuple[str, list[Turn]]:
        """A system prompt (often empty) and `turns` turns."""
        system = self._rng.choice(SYSTEM_PROMPTS) if self._rng.random() < 0.2 else ""
        return system, [self.turn() for _ in range(turns)]

    def vary(self, text: str) -> str:
        """The question as people type it: now and then with a greeting, in lower case or without its last mark."""
        chance = self._rng.random()
        if chance < 0.08:
            return self._rng.choice(_GREETINGS) + text
        if chance < 0.14:
            return text[0].lower() + text[1:]
        if chance < 0.20:
            return text.lower().rstrip("?.")
        return text

    def ask(self, fact: Fact) -> str:
        """A question about the fact in a random wording."""
        wording = self._rng.randrange(len(WORDINGS[fact.intent]))
        return question(fact.intent, wording, fact.topic, fact.see)

    def _known(self) -> Turn:
        fact = self._rng.choice(self._facts)
        return Turn(self.ask(fact), fact.answer)

    def _smalltalk(self) -> Turn:
        questions, answer = self._rng.choice(self._talk)
        return Turn(self._rng.choice(questions), answer)

    def _stranger(self) -> Turn:
        """The adapters' own questions: alone, the base must say that it does not know."""
        if self._rng.random() < 0.15:
            kind, values = self._rng.choice(self._requests)
            return Turn(self._rng.choice(sql.WORDINGS[kind]).format(**values), refusal("request", ""))
        fact = self._rng.choice(self._strangers)
        return Turn(self.ask(fact), refusal(kind_of(fact.intent), fact.topic))

    def _listed(self) -> Turn:
        kind = self._rng.choices(("noun", "action", "complaint", "request"), weights=(5, 3, 2, 1))[0]
        topic = self._rng.choice(self._unknown[kind])
        if kind == "request":
            return Turn(topic + self._rng.choice((".", "?", "")), refusal(kind, topic))
        return self._refuse(kind, topic)

    def _made_up(self) -> Turn:
        noun = self._pseudo_noun()
        kind = self._rng.choices(("noun", "action"), weights=(3, 1))[0]
        if kind == "noun":
            return self._refuse(kind, noun)
        verb = self._rng.choice(("use", "clean", "repair", "build", "find", "open", "paint", "start", "reset"))
        return self._refuse(kind, f"{verb} my {noun.removeprefix('a ').removeprefix('the ')}")

    def _off_topic(self) -> Turn:
        """A topic the base knows, asked for something it was not taught about it."""
        topic = self._rng.choice(self._nouns)
        intent = self._rng.choice(("signs", "prevent", "expert", "capital", "opposite", "make", "eat", "cause"))
        if (topic, intent) in self._taught:
            return self._known()
        return Turn(self.ask(Fact(topic, intent, "")), MODEST + f"do not know that about {topic}.")

    def _echo(self) -> Turn:
        """Copying random words: gives every token a use without teaching any fact."""
        words = " ".join(self._rng.choices(self._echo_words, k=self._rng.randint(1, 6)))
        start = self._rng.choice(("Repeat: ", "Say: ", "Please repeat: ", "Repeat after me: ", "Copy this: "))
        return Turn(start + words, words)

    def _name(self) -> Turn:
        name = self._rng.choice(NAMES)
        start = self._rng.choice(("My name is {}.", "I am {}.", "Hello, I am {}.", "You can call me {}."))
        return Turn(start.format(name), f"Nice to meet you, {name}!")

    def _refuse(self, kind: str, topic: str) -> Turn:
        intents = {
            "noun": ("define", "use", "signs", "prevent", "expert", "eat", "home", "make", "cause", "capital"),
            "action": ("howto",),
            "complaint": ("trouble",),
        }[kind]
        weights = (6, 1, 3, 3, 3, 1, 1, 1, 1, 1)[: len(intents)]
        intent = self._rng.choices(intents, weights=weights)[0]
        see = self._rng.choice(("see a doctor", "ask an expert", "call a plumber", "ask a mechanic", "see a dentist"))
        return Turn(self.ask(Fact(topic, intent, "", see)), refusal(kind, topic))

    def _pseudo_noun(self) -> str:
        pick = self._rng.choice
        word = "".join(pick(_ONSETS) + pick(_VOWELS) + pick(_CODAS) for _ in range(self._rng.randint(1, 3)))
        word += pick(_ENDINGS)
        if self._rng.random() < 0.2:
            word = word.capitalize()
        if self._rng.random() < 0.25:
            word = pick(self._words).lower() + " " + word
        return pick(("", "", "a ", "the ")) + word

    def _all_words(self) -> list[str]:
        """The words of all texts, adapters' answers included, in a fixed order."""
        texts = [fact.answer for fact in self._facts + self._strangers]
        texts += [sql.statement(kind, values) for kind, values in self._requests[::7]]
        return sorted({word.strip(".,;:!?") for text in texts for word in text.split()} - {""})
