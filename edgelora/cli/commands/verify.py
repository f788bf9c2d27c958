"""`edgelora verify`: prove again that conversions are exact and, with a base, measure what the adapter does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.commands.adapters import tell_warnings, warnings_json
from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, base_path_option, json_option
from edgelora.cli.support.output import emit, emit_fields, emit_json, emit_table, note

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.runtime.verify.conversions import ConversionCheck
    from edgelora.runtime.verify.parity import Agreement, Parity
    from edgelora.runtime.verify.subjects import Subject
    from edgelora.store.library import Library


@click.command(short_help="Prove that conversions are exact.")
@click.argument("adapter", metavar="ADAPTER", shell_complete=adapter_names)
@base_path_option("Also run prompts on this base: an installed base, a GGUF file or a Hugging Face folder.")
@click.option(
    "--source", metavar="DIR", type=click.Path(path_type=Path, exists=True), help="The source of a converted file."
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help="With --base: a prompt. May be given several times.",
)
@click.option(
    "--tokens",
    type=click.IntRange(2, 512),
    default=48,
    show_default=True,
    metavar="N",
    help="With --base: the most tokens used of each prompt.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="With --base: the number of compute threads.")
@json_option
@click.pass_obj
def verify(
    app: App,
    adapter: str,
    base: str | None,
    source: Path | None,
    prompts: tuple[str, ...],
    tokens: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Prove that conversions of ADAPTER are exact: rebuild each module's delta and compare it with the source.

    ADAPTER is an installed adapter, whose conversions are all checked; or a converted file or folder, which is compared
    with the installed adapter it was made from, or with --source; or an adapter that is not converted yet, for which
    every format is tried.

    With --base, prompts are also run by the runtime and by a plain numpy Llama with the base's dequantized weights. The
    report shows how far the two differ with the adapter and without, and how much the adapter changes. numpy reads
    every weight of the base once: seconds for a small base, minutes for an 8B.

    \b
    edgelora verify medical-faq
    edgelora verify medical-faq --base edgelora-tiny
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.runtime.verify.conversions import prove
    from edgelora.runtime.verify.subjects import open_subject
    from edgelora_converters.peft.read_options import PLAIN

    with progress_bars() as bars:
        library = app.open_library(bars)
        with open_subject(library, adapter, source) as subject:
            if base is None:
                proofs, parity = list(prove(library, subject, library.find_base(None), PLAIN, bars)), None
            else:
                options = VerifyOptions(prompts, tokens, threads)
                proofs, parity = _run(library, subject, base, options, bars)
    if as_json:
        warnings = warnings_json(subject.installed[1]) if subject.installed is not None else []
        emit_json(_as_json(adapter, proofs, parity) | {"warnings": warnings})
    else:
        _show(proofs, parity)
        if subject.installed is not None:
            tell_warnings(subject.installed[1])
    _judge(proofs, parity)


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """The options for running the adapter on a base."""

    prompts: tuple[str, ...]
    tokens: int
    threads: int | None


def _run(
    library: Library, subject: Subject, base: str, options: VerifyOptions, bars: Progress | None
) -> tuple[list[ConversionCheck], Parity | None]:
    """Return the proofs and, if none failed, the figures of the adapter on the base."""
    from edgelora.runtime.verify.conversions import for_base, prove
    from edgelora.runtime.verify.parity import PROMPTS, measure
    from edgelora.runtime.verify.run_base import open_base
    from edgelora.store.library import KnownBase
    from edgelora_converters.convert.source import read_source
    from edgelora_converters.lora.completion import complete
    from edgelora_converters.peft.read_options import ReadOptions
    from edgelora_converters.weights.open import open_base_weights

    with open_base(library, base) as on, open_base_weights(on.weights) as weights:
        reading = ReadOptions(weights=weights)
        proofs = list(prove(library, subject, KnownBase(on.gguf, on.fingerprint, on.record), reading, bars))
        if any(proof.error is not None for proof in proofs):
            return proofs, None
        with for_base(library, subject, on, reading, bars) as converted:
            adapter = read_source(subject.source, on.fingerprint.shape, reading=reading)
            return proofs, measure(
                on.gguf,
                on.weights,
                complete(adapter, on.gguf, to="mapped"),
                converted,
                shape=on.fingerprint.shape,
                prompts=options.prompts or PROMPTS,
                tokens=options.tokens,
                threads=options.threads,
                progress=bars,
            )


def _judge(proofs: Sequence[ConversionCheck], parity: Parity | None) -> None:
    """Raise the first failure, so that the exit code reports it."""
    from edgelora.core.errors import AdapterError

    failed = [proof.error for proof in proofs if proof.error is not None]
    if failed:
        raise failed[0]
    if not any(proof.modules for proof in proofs):
        message = "No conversion could be checked."
        raise AdapterError("nothing_proven", message, "Install the base it was made for, or convert it for this one.")
    if parity is not None and not parity.passed:
        far = f"{parity.adapter.kl:.1e} nats from the oracle; {parity.limit:.1e} is allowed"
        message = f"With the adapter the runtime is {far}."
        raise AdapterError("parity", message, "Report it with this table, and the adapter's configuration.")


def _as_json(adapter: str, proofs: Sequence[ConversionCheck], parity: Parity | None) -> dict[str, Any]:
    proven = any(proof.modules for proof in proofs) and all(proof.error is None for proof in proofs)
    ok = proven and (parity is None or parity.passed)
    figures = None
    if parity is not None:
        figures = asdict(parity) | {"limit": parity.limit, "passed": parity.passed, "visible": parity.visible}
    return {"adapter": adapter, "verified": ok, "proofs": [_proof_json(proof) for proof in proofs], "parity": figures}


def _proof_json(proof: ConversionCheck) -> dict[str, Any]:
    error = None if proof.error is None else {"code": proof.error.code, "message": proof.error.what}
    return {
        "format": proof.format,
        "base": proof.base,
        "path": None if proof.path is None else str(proof.path),
        "modules": proof.modules,
        "worst_error": proof.worst,
        "worst_module": proof.worst_module,
        "skipped": proof.skipped or None,
        "error": error,
    }


def _show(proofs: Sequence[ConversionCheck], parity: Parity | None) -> None:
    rows = [(p.format, p.base, str(p.modules or ""), _worst(p), p.worst_module, _outcome(p)) for p in proofs]
    emit_table(("FORMAT", "BASE", "MODULES", "OFF BY", "WORST MODULE", ""), rows, right=frozenset({2, 3}))
    if parity is not None:
        emit("")
        _show_parity(parity)


def _worst(proof: ConversionCheck) -> str:
    return f"{proof.worst:.1e}" if proof.modules else ""


def _outcome(proof: ConversionCheck) -> str:
    if proof.error is not None:
        return f"FAILED: {proof.error.what}"
    return f"not checked: {proof.skipped}" if proof.skipped else "proven"


def _show_parity(parity: Parity) -> None:
    rows = [
        (name, *_agreement(agreement))
        for name, agreement in (("with the adapter", parity.adapter), ("base", parity.base))
    ]
    emit_table(("RUNTIME AND ORACLE", "KL, MEAN", "KL, WORST", "SAME TOKEN"), rows, right=frozenset({1, 2, 3}))
    emit_fields(
        [
            ("the adapter changes", f"KL {parity.effect:.1e}, {parity.changed:.1%} of the likeliest tokens"),
            ("over", f"{parity.positions} positions; KL in nats, of the oracle's distribution"),
            ("outcome", f"{'within' if parity.passed else 'MORE THAN'} the limit of {parity.limit:.1e}"),
        ]
    )
    if not parity.visible:
        note("The adapter changes less than the base's own rounding. It may be untrained, or for other prompts.")


def _agreement(agreement: Agreement) -> tuple[str, str, str]:
    return f"{agreement.kl:.1e}", f"{agreement.kl_max:.1e}", f"{agreement.top1:.1%}"
