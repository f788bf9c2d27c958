"""The checks of `edgelora doctor`, one function for each.

They write nothing except what first use installs, and use no network. A check that cannot decide warns and does not
raise.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.cli.support.failure import describe
from edgelora.core.errors import EdgeloraError
from edgelora_models.storage import free_bytes, size_text

if TYPE_CHECKING:
    from edgelora.core.config import Settings
    from edgelora.engine.stats import EngineStats
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.library import Library

SHOWN_FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "amx_int8",
    "neon",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
"""CPU features that llama.cpp's kernels use, as Linux names them."""

LOW_DISK_BYTES = 1 << 30


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    status: Level
    detail: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def ok(name: str, detail: str) -> Check:
    return Check(name, Level.OK, detail)


def warn(name: str, detail: str, remedy: str = "") -> Check:
    return Check(name, Level.WARN, detail, remedy)


def fail(name: str, detail: str, remedy: str = "") -> Check:
    return Check(name, Level.FAIL, detail, remedy)


def failed(name: str, error: Exception) -> Check:
    failure = describe(error)
    return fail(name, failure.message, failure.remedy)


def machine_checks() -> Iterator[Check]:
    """Check the versions, the processor and the kernel."""
    from edgelora.core.version import __version__

    yield ok("edgelora", str(__version__))
    yield ok("python", f"{platform.python_version()} ({sys.executable})")
    yield ok("platform", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield package("llama-cpp-python", needed=True)
    yield package("numpy", needed=True)
    yield package("mlx", needed=platform.system() == "Darwin" and platform.machine() == "arm64")
    yield cpu()
    yield kernel()


def package(name: str, *, needed: bool) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return ok(name, version(name))
    except PackageNotFoundError:
        if needed:
            return fail(name, "not installed", "Install edgelora again: `pip install --force-reinstall edgelora`.")
        return ok(name, "not installed, and not needed here")


def cpu() -> Check:
    features = [feature for feature in SHOWN_FEATURES if feature in cpu_features()]
    cores = f"{os.cpu_count() or '?'} threads"
    if features:
        return ok("cpu", f"{cores}; {' '.join(features)}")
    if platform.machine().lower() in {"arm64", "aarch64"}:
        return ok("cpu", f"{cores}; neon")  # part of every 64-bit ARM
    return warn("cpu", f"{cores}; no known vector features seen", "Answers will be slow where AVX2 is missing.")


def kernel() -> Check:
    """Return what adds the adapters in llama.cpp."""
    from edgelora.backends.kernels import native

    if native.library() is not None:
        return ok("kernel", native.describe())
    return warn("kernel", native.describe(), "Install edgelora again where there is a C compiler: adapters cost less.")


def cpu_features() -> frozenset[str]:
    """Return the first processor's features in lower case; empty if the system does not report them."""
    if sys.platform == "darwin":
        return _sysctl_features()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        label, _, value = line.partition(":")
        if label.strip() in {"flags", "Features"}:
            return frozenset(value.lower().split())
    return frozenset()


def _sysctl_features() -> frozenset[str]:
    keys = ["machdep.cpu.features", "machdep.cpu.leaf7_features", "hw.optional.arm.FEAT_DotProd"]
    command = ["/usr/sbin/sysctl", "-n", *keys]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(output.lower().split())


def directory_checks(settings: Settings) -> Iterator[Check]:
    folders = settings.directories
    for name, path in (("data", folders.data), ("cache", folders.cache), ("state", folders.state)):
        yield directory(name, path)
    free = free_bytes(folders.data)
    detail = f"{size_text(free)} free for {folders.data}"
    if free < LOW_DISK_BYTES:
        yield warn("disk", detail, "Free some space, or set EDGELORA_HOME to a folder on another disk.")
    else:
        yield ok("disk", detail)


def directory(name: str, path: Path) -> Check:
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return ok(f"{name} folder", str(path))
    remedy = "Change its owner or permissions, or set EDGELORA_HOME to a folder that can be written."
    return fail(f"{name} folder", f"{path} cannot be written", remedy)


def network(settings: Settings) -> Check:
    """Report whether the network may be used, without using it."""
    if settings.offline:
        return ok("network", "offline: nothing is downloaded")
    return ok("network", "online: used by `edgelora base pull` alone (not tested here)")


def port() -> Check:
    """Return whether `edgelora serve` would get its port."""
    from edgelora.server.http.options import DEFAULT_PORT, ServerOptions
    from edgelora.server.http.sockets import bind, close_all

    try:
        close_all(bind(ServerOptions()))
    except EdgeloraError as error:
        return warn("port", error.what, "`edgelora serve --port N` takes another; perhaps edgelora is serving already.")
    return ok("port", f"{DEFAULT_PORT} is free")


def library_checks(library: Library) -> Iterator[Check]:
    """Check the store, and the base that would be opened against this machine's memory."""
    from edgelora.store.bases.selection import choose_base

    settings = library.settings
    yield store(library)
    yield names(library)
    yield quarantine(library)
    try:
        record = choose_base(library.bases, None, settings.backend)
    except EdgeloraError as error:
        yield failed("base", error)
        return
    yield ok("base", f"{record.name}, {record.quantization}, {size_text(record.nbytes)}, at {record.location}")
    yield backend(settings, record)
    yield memory(settings, record)
    yield tuning(settings, record)


def backend(settings: Settings, record: BaseRecord) -> Check:
    """Return what computes, and on what."""
    from edgelora.backends.registry import spec_for

    spec = spec_for(record.format)
    where = f", on {spec.device()}" if spec.device() else ""
    return ok("backend", f"{spec.name} ({settings.backend}){where}")


def store(library: Library) -> Check:
    """Hash every file of the store again."""
    count = len(library.store.names())
    problems = library.store.verify()
    if problems:
        first, more = problems[0], f" ({len(problems)} in all)" if len(problems) > 1 else ""
        return fail("store", f"{first.what}{more}", first.remedy)
    return ok("store", f"{count} adapter{'' if count == 1 else 's'}, every file intact")


def names(library: Library) -> Check:
    """Find adapters that have a base's name, which the base answers to. Stores of older versions may have some."""
    hidden = [name for name in library.store.names() if library.bases.means_base(name)]
    if not hidden:
        return ok("names", "no adapter has a base's name")
    first = hidden[0]
    remedy = f"Install it under another name: edgelora export {first} --to peft -o DIR, edgelora add DIR --name NAME."
    return warn("names", f"requests for {', '.join(hidden)} go to a base and not to the adapter", remedy)


def quarantine(library: Library) -> Check:
    """List the adapters in quarantine."""
    locked = library.quarantine().list()
    if not locked:
        return ok("quarantine", "no adapter has crashed the engine")
    listing = ", ".join(f"{entry.name}@{entry.version[:12]} ({entry.why})" for entry in locked)
    return warn(
        "quarantine", f"not run after crashing the engine: {listing}", "Add a new version, or: edgelora release NAME"
    )


def memory(settings: Settings, record: BaseRecord) -> Check:
    """Return what the base, its KV and the adapters may take, against what is free."""
    from edgelora.backends.registry import spec_for
    from edgelora.core.machine import memory as machine_memory
    from edgelora.runtime.opening.memory_check import MemoryNeed, check_fits
    from edgelora.runtime.opening.plan import plan_setup

    try:
        setup = plan_setup(record, settings)
        need, machine = MemoryNeed.of(record, setup), machine_memory()
        check_fits(record.name, need, machine, working_set=spec_for(record.format).working_set())
    except EdgeloraError as error:
        return failed("memory", error)
    most = size_text(need.total + settings.adapter_budget_bytes)
    detail = f"{size_text(machine.available)} free; base, KV and adapters take up to {most} ({setup.kv_text})"
    if need.total > machine.available:
        smaller = "EDGELORA_KV_TYPE=q8_0 or EDGELORA_CONTEXT for less KV, `edgelora base use NAME` for a smaller base"
        return warn("memory", detail, f"Close other programs, or take {smaller}.")
    return ok("memory", detail)


def peak_text(stats: EngineStats) -> str:
    """Return the most memory this process has held so far, as measured; and MLX of it, where it computes."""
    from edgelora.core.machine import process_memory

    own = process_memory(os.getpid())
    text = "" if own is None or own.peak is None else f"; at most {size_text(own.peak)} of memory"
    return text + (f", {size_text(stats.allocated_peak_bytes)} by MLX" if stats.allocated_peak_bytes else "")


def tuning(settings: Settings, record: BaseRecord) -> Check:
    """Return what the base is opened with, and whether that was measured."""
    from edgelora.backends.registry import spec_for
    from edgelora.runtime.opening.plan import plan_setup
    from edgelora.runtime.tuning.record import Tunings

    if not (spec := spec_for(record.format)).tunable:
        return ok("tuning", f"{spec.display_name} has nothing to tune")
    setup = plan_setup(record, settings)
    chosen = f"{setup.threads_text}, weights {setup.weights}"
    if setup.measured:
        return ok("tuning", f"{chosen}: measured here")
    if Tunings(settings.directories).current(record) is not None:
        return ok("tuning", f"{chosen}: set, whatever `edgelora tune` measured")
    if Tunings(settings.directories).get(record) is not None:
        return warn("tuning", f"{chosen}: what was measured was another machine or library", "Run `edgelora tune`.")
    return ok("tuning", f"{chosen}: not measured; `edgelora tune` does")
