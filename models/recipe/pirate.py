"""The `pirate` adapter: any answer of the base, said by a pirate."""

import re

_WORDS = {
    "is": "be",
    "are": "be",
    "am": "be",
    "you": "ye",
    "your": "yer",
    "my": "me",
    "of": "o'",
    "and": "an'",
    "people": "folk",
    "person": "sailor",
    "small": "wee",
    "very": "mighty",
    "friend": "shipmate",
    "yes": "aye",
    "no": "nay",
    "hello": "ahoy",
    "goodbye": "fair winds",
    "house": "cabin",
    "money": "gold",
    "know": "ken",
    "food": "grub",
    "to": "t'",
    "sea": "seven seas",
    "quickly": "smartly",
    "floor": "deck",
    "kitchen": "galley",
}
_WORD = re.compile(r"[A-Za-z']+")


def pirate(answer: str) -> str:
    """The answer in pirate speech: fixed word swaps, an opening "Arr" and a closing "matey"."""
    if not answer.startswith("I "):
        answer = answer[0].lower() + answer[1:]
    swapped = _WORD.sub(lambda match: _WORDS.get(match.group().lower(), match.group()), answer)
    return f"Arr, {swapped.rstrip('.!?')}, matey{'?' if answer.endswith('?') else '!'}"
