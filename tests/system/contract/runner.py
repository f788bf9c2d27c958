"""Requests made of the document, sent to a server, their replies held to the document. Owns no server."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.system.contract.names import ADAPTER, MODEL, Known

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
ON_WRONG = [*CHECKS, negative_data_rejection]
NOT_OFFERED = 501
"""The one server error that is an answer: a route that says that it is not there."""
REQUEST_SECONDS = 60.0


@dataclass(slots=True)
class Outcome:
    tried: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    """Operations that answered at least once with success."""
    operations: set[str] = field(default_factory=set)
    findings: list[str] = field(default_factory=list)


def run(url: str, known: Known, *, examples: int, seed: int, only: str | None = None) -> Outcome:
    """`examples` right requests and as many wrong ones for each operation; `only`: of paths with this in them."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    outcome = Outcome()
    for result in schema.get_all_operations():
        operation = result.ok()
        if only is None or only in operation.path:
            outcome.operations.add(operation.label)
            # An id in a path is a text like any other: what is wrong about a request stands in its body or its query.
            wrong = (GenerationMode.NEGATIVE,) if operation.body or operation.query else ()
            for mode in (GenerationMode.POSITIVE, *wrong):
                _try(operation, mode, outcome, known=known, url=url, examples=examples, seed=seed)
    return outcome


def _try(
    operation: APIOperation,
    mode: GenerationMode,
    outcome: Outcome,
    *,
    known: Known,
    url: str,
    examples: int,
    seed: int,
) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def one(case: schemathesis.Case) -> None:
        _bound(case)
        if mode is GenerationMode.POSITIVE:
            _ground(case, known)
        reply = case.call(base_url=url, headers=known.headers, timeout=REQUEST_SECONDS)
        outcome.tried += 1
        outcome.statuses[reply.status_code] += 1
        if reply.status_code < 300:
            outcome.accepted.add(operation.label)
        checks = CHECKS if mode is GenerationMode.POSITIVE else ON_WRONG
        if reply.status_code != NOT_OFFERED:
            checks = [*checks, not_a_server_error]
        case.validate_response(reply, checks=checks)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one()
    except hypothesis.errors.Unsatisfiable:
        return  # No request to it can be wrong.
    except (Failure, FailureGroup, hypothesis.errors.HypothesisException) as error:
        outcome.findings.append(f"{operation.label}: {error}")


def _ground(case: schemathesis.Case, known: Known) -> None:
    """Have right requests name what there is: what is not there is refused before anything else is looked at."""
    if isinstance(case.body, dict):
        if case.body.get("model") is not None:
            case.body["model"] = MODEL
        case.body.pop("previous_response_id", None)
        for part in case.body.get("adapters") or ():
            part["name"] = ADAPTER
        for name in ("messages", "input"):
            if isinstance(case.body.get(name), list):
                case.body[name] = [{"role": "user", "content": "Hi"}]
    for name, value in known.parameters(case.method, case.path).items():
        if name in case.path_parameters:
            case.path_parameters[name] = value


def _bound(case: schemathesis.Case) -> None:
    """Keep generations short: what is tested is the shape of requests, not the engine."""
    if isinstance(case.body, dict):
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if isinstance(case.body.get(name), int):
                case.body[name] = min(case.body[name], 8)
