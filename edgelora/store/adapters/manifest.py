"""The manifest of an adapter: its versions, and the version that each alias means.

Immutable values and their JSON, with a closed schema. Owns no file and no path; see `store`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec

from edgelora.core.errors import NotFound, StorageError, UsageError
from edgelora.core.files import valid_name
from edgelora.core.newer import refuse_newer
from edgelora.store.adapters.warning import AdapterWarning

LATEST = "latest"
MIN_PREFIX = 6
"""Digits of a digest that are enough to name a version."""

_LIKE_VERSION = re.compile(r"[0-9]+|[0-9a-f]{6,}")

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Number = Annotated[int, msgspec.Meta(ge=1)]


class StoredFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of an adapter, as it was added."""

    name: str
    """Path below its folder, with `/`."""
    digest: Digest
    """sha256 hex of its bytes."""
    nbytes: Count


class Conversion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version converted for one base: written beside the converted files, and made again where it is missing."""

    format: Literal["mapped", "gguf", "mlx"]
    source: Digest
    """The version's digest."""
    base_fingerprint: Digest
    converter: str
    """Version of the converter; another one converts again."""
    files: tuple[StoredFile, ...]
    memory_bytes: Count
    """Bytes that the adapter takes in memory."""
    worst_error: float
    """Largest relative error of any module against the source."""
    weights: str = ""
    """BaseRecord.weights_key of the base's file that it was made with; empty where the conversion needs no base
    weights."""

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)


class Version(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An immutable content of an adapter."""

    number: Number
    """1, 2, 3 and so on, never given twice while the adapter stays installed."""
    digest: Digest
    """sha256 hex of the PEFT files: what makes a version that version."""
    created: float
    """Unix seconds."""
    files: tuple[StoredFile, ...]
    """The PEFT files, kept as blobs."""
    base_model: str | None
    """The base's name in the adapter's own configuration; a hint for people."""
    base_name: str
    """The installed base it was added for."""
    base_fingerprint: Digest
    rank: Number
    """Largest rank of any module."""
    alpha: str
    """lora_alpha as configured."""
    scales: tuple[float, float]
    """Smallest and largest scale of any module, patterns and rsLoRA applied."""
    targets: tuple[str, ...]
    """Short module names, such as `q_proj`."""
    use_rslora: bool
    parameters: Count
    invocation: tuple[Count, ...] = ()
    """aLoRA: the token ids it acts from on. Empty is plain LoRA."""
    needs_base: bool = False
    """True if the adapter needs the base's own weights (for DoRA's norms, or the rows that trainable tokens replace).
    Every file of a base then has a conversion of its own."""
    warnings: tuple[AdapterWarning, ...] = ()
    """Reasons to doubt that it does what it was trained for, found when it was added."""
    treatment: str = ""
    """Description of the steps that made its factors plain ones; empty for most adapters."""
    origin: str = ""
    """Source of the adapter: `hub:<repository>@<commit>` if it was pulled, `upload` or `upload:<file id>` if a client
    of the server sent it, `loaded` if a client had it loaded from this machine; empty otherwise. See
    `runtime.install.sources`."""

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)


class AdapterManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An installed adapter. Always has a version and the alias `latest`."""

    name: str
    versions: tuple[Version, ...]
    """By number."""
    aliases: dict[str, int]
    """Movable names to version numbers."""
    next_number: Number
    """Number of the next new version; not reused when the last one is removed."""
    schema: Literal[1] = 1

    @property
    def latest(self) -> Version:
        """The version that the bare name means."""
        return self._numbered(self.aliases[LATEST])

    def find(self, selector: str) -> Version:
        """Return a version by number, alias or at least six digits of its digest. Raises NotFound with what there
        is."""
        if selector in self.aliases:
            return self._numbered(self.aliases[selector])
        for version in self.versions:
            if str(version.number) == selector:
                return version
        matching = [v for v in self.versions if len(selector) >= MIN_PREFIX and v.digest.startswith(selector)]
        if len(matching) == 1:
            return matching[0]
        selectors = ", ".join([*(str(v.number) for v in self.versions), *sorted(self.aliases)])
        raise NotFound("adapter", f"{self.name}@{selector}", (), f"Its versions are: {selectors}.")

    def with_digest(self, digest: str) -> Version | None:
        return next((version for version in self.versions if version.digest == digest), None)

    def adding(self, version: Version) -> Self:
        """Return the manifest with a further version, which becomes the latest."""
        return msgspec.structs.replace(
            self,
            versions=(*self.versions, version),
            aliases={**self.aliases, LATEST: version.number},
            next_number=version.number + 1,
        )

    def warned(self, number: int, warnings: tuple[AdapterWarning, ...]) -> Self:
        """Return the manifest with these warnings of one of its versions: an older edgelora may have found fewer."""
        versions = (msgspec.structs.replace(v, warnings=warnings) if v.number == number else v for v in self.versions)
        return msgspec.structs.replace(self, versions=tuple(versions))

    def pointing(self, alias: str, number: int) -> Self:
        """Return the manifest with an alias moved to one of its versions."""
        return msgspec.structs.replace(self, aliases={**self.aliases, alias: number})

    def unpointing(self, alias: str) -> Self:
        """Return the manifest without an alias. Raises NotFound with those there are."""
        if alias not in self.aliases:
            aliases = ", ".join(sorted(self.aliases))
            raise NotFound("alias", f"{self.name}@{alias}", (), f"Its aliases are: {aliases}.")
        return msgspec.structs.replace(self, aliases={name: n for name, n in self.aliases.items() if name != alias})

    def without(self, number: int) -> Self | None:
        """Return the manifest without a version and its aliases; `latest` falls back to the newest left. None where
        none is left."""
        left = tuple(version for version in self.versions if version.number != number)
        if not left:
            return None
        aliases = {alias: n for alias, n in self.aliases.items() if n != number}
        return msgspec.structs.replace(self, versions=left, aliases={LATEST: left[-1].number} | aliases)

    def _numbered(self, number: int) -> Version:
        return next(version for version in self.versions if version.number == number)


def check_alias(alias: str) -> str:
    """Return `alias`. Raises UsageError for one that is no name, or could be mistaken for a version's number or
    digest."""
    if not valid_name(alias) or _LIKE_VERSION.fullmatch(alias):
        raise UsageError(
            "bad_alias",
            f"{alias!r} cannot be an alias.",
            "Use small letters, digits, '.', '_' and '-', and not digits or hexadecimal digits alone.",
            param="alias",
        )
    return alias


def first_manifest(name: str, version: Version) -> AdapterManifest:
    """A new adapter with its first version."""
    return AdapterManifest(name, (version,), {LATEST: version.number}, version.number + 1)


def previous(manifest: AdapterManifest) -> str:
    """Return the number of the version before the one the bare name means. Raises UsageError where there is none."""
    older = [version.number for version in manifest.versions if version.number < manifest.latest.number]
    if not older:
        message = f"{manifest.name} has no version before {manifest.latest.number}."
        raise UsageError("no_older_version", message, "Name one of its versions.", param="version")
    return str(older[-1])


def encode(value: AdapterManifest | Conversion) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def decode_manifest(data: bytes, *, path: Path) -> AdapterManifest:
    """Return a manifest read from `path`. Raises StorageError if the file is damaged, or of a newer edgelora."""
    try:
        manifest = msgspec.json.decode(data, type=AdapterManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        refuse_newer(data, error, path)
        raise damaged(path, str(error)) from error
    for problem in _problems(manifest, path.stem):
        raise damaged(path, problem)
    return manifest


def decode_conversion(data: bytes) -> Conversion:
    """Raises msgspec.DecodeError; a damaged conversion is simply made again."""
    return msgspec.json.decode(data, type=Conversion)


def damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        "store_damaged",
        f"{path} is damaged: {why}.",
        "Delete that file and add the adapter again; no other adapter depends on it.",
    )


def _problems(manifest: AdapterManifest, stem: str) -> Iterable[str]:
    """Yield the violations that the schema alone cannot express."""
    numbers = [version.number for version in manifest.versions]
    if manifest.name != stem or not valid_name(manifest.name):
        yield f"it names the adapter {manifest.name!r}"
    if not numbers or numbers != sorted(set(numbers)) or manifest.next_number <= numbers[-1]:
        yield f"its version numbers are {numbers}, the next one {manifest.next_number}"
    if len({version.digest for version in manifest.versions}) != len(numbers):
        yield "two of its versions have one content"
    if LATEST not in manifest.aliases or not set(manifest.aliases.values()) <= set(numbers):
        yield "an alias means a version that is not there"
