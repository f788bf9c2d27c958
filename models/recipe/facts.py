"""Facts: an answer to one intent about one topic, read from the text files in `data/`."""

from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Fact:
    """`answer` is the whole answer to `intent` about `topic`; `see` is whom the question turns to."""

    topic: str
    intent: str
    answer: str
    see: str = "ask an expert"


def content_lines(name: str) -> list[str]:
    """The lines of `data/<name>.txt` without comments and blank lines."""
    lines = (DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_facts(name: str, *, see: str = "ask an expert", closing: str = "") -> list[Fact]:
    """The facts of a file of `[topic]` blocks with `intent: answer` lines; `closing` ends every answer."""
    facts: list[Fact] = []
    topic = ""
    topic_see = see
    for line in content_lines(name):
        if line.startswith("["):
            topic, topic_see = line.strip("[]"), see
            continue
        key, value = line.split(": ", 1)
        if key == "see":
            topic_see = value
        else:
            facts.append(Fact(topic, key, value + closing, topic_see))
    return facts


def read_pairs() -> list[Fact]:
    """The facts that follow one template: capitals and opposites."""
    facts = []
    for line in content_lines("base_pairs"):
        intent, template, pairs = (part.strip() for part in line.split("|"))
        for pair in pairs.split(", "):
            topic, value = pair.split("=")
            facts.append(Fact(topic, intent, template.format(x=topic, y=value)))
    return facts


def read_smalltalk() -> list[tuple[tuple[str, ...], str]]:
    """Small talk: (equivalent things the user may say, the answer)."""
    talk = []
    for line in content_lines("smalltalk"):
        questions, answer = line.split(" => ")
        talk.append((tuple(questions.split(" / ")), answer))
    return talk


def read_unknown() -> dict[str, list[str]]:
    """Topics the base was not taught, by kind: noun, action, complaint, request."""
    groups = (line.split(": ", 1) for line in content_lines("unknown_topics"))
    return {kind: topics.split(", ") for kind, topics in groups}


def base_facts() -> list[Fact]:
    """Everything the base is taught, apart from small talk."""
    return read_facts("base_things") + read_facts("base_practical") + read_pairs()
