"""The `sql` adapter: questions about a few invented tables, answered by one SQL statement."""

import itertools
from collections.abc import Iterator

# table: (columns with text, columns with numbers)
TABLES = {
    "customers": (("name", "city", "email"), ("age",)),
    "products": (("name", "colour"), ("price", "weight")),
    "orders": (("status", "country"), ("total",)),
    "employees": (("name", "team"), ("salary", "age")),
    "books": (("title", "author"), ("pages", "year")),
    "students": (("name", "school"), ("grade",)),
    "trains": (("line", "station"), ("speed",)),
    "films": (("title", "director"), ("year", "length")),
}
VALUES = ("Paris", "Rome", "Berlin", "red", "blue", "green", "open", "closed", "Anna", "Tom", "Lisa", "north", "south")
NUMBERS = (5, 10, 20, 30, 50, 100, 200, 1000)
EXTREMES = {"highest": "MAX", "lowest": "MIN", "average": "AVG"}

WORDINGS = {
    "all": (
        "Show the {c} of all {t}.",
        "List the {c} of every one of the {t}.",
        "Give me the {c} of all {t}.",
        "What is the {c} of each of the {t}?",
        "I need the {c} of all {t}.",
        "Select the {c} from the {t}.",
        "Which {c} do the {t} have?",
        "Please print the {c} for all {t}.",
    ),
    "count": (
        "How many {t} are there?",
        "Count the {t}.",
        "What is the number of {t}?",
        "Tell me how many {t} we have.",
        "Give me the count of {t}.",
        "How many {t} do we have?",
        "I need the number of {t}.",
        "Please count all {t}.",
    ),
    "extreme": (
        "What is the {e} {c} of the {t}?",
        "Show the {e} {c} of all {t}.",
        "Find the {e} {c} among the {t}.",
        "Give me the {e} {c} of the {t}.",
        "Tell me the {e} {c} in {t}.",
        "I need the {e} {c} of the {t}.",
        "Which {c} is the {e} of the {t}?",
        "Please compute the {e} {c} of the {t}.",
    ),
    "where": (
        "Show the {c} of {t} whose {d} is {v}.",
        "List the {c} of {t} with {d} {v}.",
        "Give me the {c} of all {t} where {d} is {v}.",
        "Which {c} do {t} with {d} {v} have?",
        "I need the {c} of {t} with the {d} {v}.",
        "Find the {c} of {t} that have {v} as {d}.",
        "Select the {c} from {t} if the {d} is {v}.",
        "For {t} with {d} {v}, print the {c}.",
    ),
    "over": (
        "Show the {c} of {t} with a {d} over {v}.",
        "List the {c} of {t} whose {d} is above {v}.",
        "Which {c} do {t} with {d} over {v} have?",
        "Give me the {c} of {t} with more than {v} as {d}.",
        "I need the {c} of {t} with {d} greater than {v}.",
        "Find the {c} of {t} where {d} is more than {v}.",
        "Select the {c} from {t} if the {d} is over {v}.",
        "For {t} with {d} above {v}, print the {c}.",
    ),
    "sort": (
        "Show all {t} sorted by {c}.",
        "Sort the {t} by {c}.",
        "List the {t} ordered by {c}.",
        "Give me all {t} in order of {c}.",
        "I need the {t} sorted by their {c}.",
        "Order the {t} by {c}.",
        "Put the {t} in order by {c}.",
        "Please print all {t} by {c}.",
    ),
}
STATEMENTS = {
    "all": "SELECT {c} FROM {t};",
    "count": "SELECT COUNT(*) FROM {t};",
    "extreme": "SELECT {f}({c}) FROM {t};",
    "where": "SELECT {c} FROM {t} WHERE {d} = '{v}';",
    "over": "SELECT {c} FROM {t} WHERE {d} > {v};",
    "sort": "SELECT * FROM {t} ORDER BY {c};",
}


def requests() -> Iterator[tuple[str, dict[str, object]]]:
    """Every (kind, values to fill in) the tables allow."""
    for table, (texts, numbers) in TABLES.items():
        yield "count", {"t": table}
        for column in texts + numbers:
            yield "all", {"t": table, "c": column}
            yield "sort", {"t": table, "c": column}
        for column, (word, function) in itertools.product(numbers, EXTREMES.items()):
            yield "extreme", {"t": table, "c": column, "e": word, "f": function}
        for column, other, value in itertools.product(texts, texts, VALUES):
            if column != other:
                yield "where", {"t": table, "c": column, "d": other, "v": value}
        for column, other, value in itertools.product(texts, numbers, NUMBERS):
            yield "over", {"t": table, "c": column, "d": other, "v": value}


def statement(kind: str, values: dict[str, object]) -> str:
    """The SQL answer."""
    return STATEMENTS[kind].format(**values)
