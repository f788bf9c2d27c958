"""The question wordings: for every intent, many ways of asking the same thing.

The base learns that the wordings of one intent are equivalent; that is what lets an adapter,
which sees each of its facts in some wordings only, answer in the others.
`{x}` is the topic as a noun phrase, an action or a complaint; `{see}` is whom to turn to.
"""

import hashlib

WORDINGS: dict[str, tuple[str, ...]] = {
    "define": (
        "What is {x}?",
        "What's {x}?",
        "Explain {x}.",
        "Please explain {x}.",
        "Tell me about {x}.",
        "Can you tell me about {x}?",
        "Could you describe {x}?",
        "Describe {x} for me.",
        "Can you explain what {x} is?",
        "What exactly is {x}?",
        "I would like to know what {x} is.",
        "What does {x} mean?",
        "Do you know what {x} is?",
        "Give me a short description of {x}.",
        "In a few words, what is {x}?",
        "What can you tell me about {x}?",
    ),
    "use": (
        "What is {x} used for?",
        "What is {x} for?",
        "What do people use {x} for?",
        "Why do people use {x}?",
        "What is the use of {x}?",
        "What is the purpose of {x}?",
        "Tell me what {x} is used for.",
        "How is {x} useful?",
        "What can I do with {x}?",
        "When would I use {x}?",
        "Can you explain the use of {x}?",
        "I would like to know what {x} is used for.",
    ),
    "signs": (
        "What are the signs of {x}?",
        "What are the symptoms of {x}?",
        "How can I recognise {x}?",
        "How do I notice {x}?",
        "What does {x} look like?",
        "Which signs point to {x}?",
        "Tell me the signs of {x}.",
        "How would I know that it is {x}?",
        "Can you list common signs of {x}?",
        "What are typical symptoms of {x}?",
        "How does {x} show itself?",
        "What should I look for with {x}?",
    ),
    "prevent": (
        "How can I prevent {x}?",
        "How is {x} prevented?",
        "How do I avoid {x}?",
        "What helps to prevent {x}?",
        "What can I do to avoid {x}?",
        "Tell me how to prevent {x}.",
        "How can the risk of {x} be lowered?",
        "How do people protect themselves from {x}?",
        "What is the best way to prevent {x}?",
        "Can {x} be prevented?",
        "Is there a way to avoid {x}?",
        "Please give me advice on preventing {x}.",
    ),
    "expert": (
        "When should I {see} about {x}?",
        "When do I need to {see} about {x}?",
        "When is it time to {see} about {x}?",
        "Should I {see} about {x}?",
        "At what point should I {see} for {x}?",
        "When does {x} need expert help?",
        "How serious must {x} be before I {see}?",
        "Do I have to {see} because of {x}?",
        "Is {x} a reason to {see}?",
        "When should somebody with {x} get help?",
        "Tell me when to {see} about {x}.",
        "When is {x} serious enough to {see}?",
    ),
    "howto": (
        "How do I {x}?",
        "How can I {x}?",
        "How to {x}?",
        "What is the best way to {x}?",
        "Please tell me how to {x}.",
        "I want to {x}. How does that work?",
        "Can you explain how to {x}?",
        "Help me {x}.",
        "What do I have to do to {x}?",
        "I would like to {x}.",
        "Could you show me how to {x}?",
        "What are the steps to {x}?",
        "I do not know how to {x}.",
        "Is there an easy way to {x}?",
    ),
    "trouble": (
        "{x}. What should I do?",
        "{x}. What can I do?",
        "{x}. Can you help me?",
        "{x}. How do I fix it?",
        "Help! {x}.",
        "{x}. Any advice?",
        "{x}. What is wrong?",
        "I have a problem. {x}.",
        "{x}. What would you try first?",
        "{x}. Is there something I can try?",
        "Hello, {x}. What now?",
        "Can you help? {x}.",
    ),
    "eat": (
        "What does {x} eat?",
        "What does {x} feed on?",
        "What is the food of {x}?",
        "Tell me what {x} eats.",
        "Do you know what {x} eats?",
        "What would {x} like to eat?",
        "What do I feed {x}?",
        "Can you tell me the usual food of {x}?",
    ),
    "home": (
        "Where does {x} live?",
        "Where can I find {x}?",
        "What is the home of {x}?",
        "Tell me where {x} lives.",
        "Do you know where {x} lives?",
        "In what place does {x} live?",
        "Where is {x} usually found?",
        "Can you tell me where to find {x}?",
    ),
    "make": (
        "How is {x} made?",
        "What is {x} made of?",
        "How do people make {x}?",
        "What goes into {x}?",
        "Tell me how {x} is made.",
        "Where does {x} come from?",
        "Can you explain how {x} is made?",
        "What do you need for {x}?",
    ),
    "cause": (
        "What causes {x}?",
        "Why is there {x}?",
        "How does {x} happen?",
        "What is the cause of {x}?",
        "What is the reason for {x}?",
        "Tell me what causes {x}.",
        "Where does {x} come from?",
        "Can you explain the cause of {x}?",
    ),
    "capital": (
        "What is the capital of {x}?",
        "Which city is the capital of {x}?",
        "Tell me the capital of {x}.",
        "What's the capital city of {x}?",
        "Do you know the capital of {x}?",
        "Can you name the capital of {x}?",
    ),
    "opposite": (
        "What is the opposite of {x}?",
        "Which word means the opposite of {x}?",
        "Tell me the opposite of {x}.",
        "What's the opposite of {x}?",
        "Can you name the opposite of {x}?",
        "{x} is the opposite of what?",
    ),
}


def question(intent: str, wording: int, topic: str, see: str = "ask an expert") -> str:
    """The question about `topic` in one wording of `intent`, with its first letter in upper case."""
    text = WORDINGS[intent][wording].format(x=topic, see=see)
    return text[0].upper() + text[1:]


def held_out(intent: str, topic: str, count: int) -> frozenset[int]:
    """The `count` wordings of `intent` that are never used with `topic` in training.

    They are drawn by a hash, so that each fact misses other wordings and the split needs no stored state.
    """

    def rank(wording: int) -> bytes:
        return hashlib.sha256(f"{intent}|{topic}|{wording}".encode()).digest()

    return frozenset(sorted(range(len(WORDINGS[intent])), key=rank)[:count])
