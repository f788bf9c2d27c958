"""The plan of an upload in pieces: which files are wanted, how many pieces each has, and whether all came. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgelora.core.errors import UsageError
from edgelora.server.http.validation import invalid

MAX_FILES = 256
MAX_PIECES = 512
"""Of one file: Together's clients send pieces of 20 MiB."""
ARCHIVES = (".zip", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class WantedFile:
    path: str
    """As the client called it."""
    name: str
    """What it is called here."""
    hash: str
    """md5 hex of the file; of several pieces, md5 hex of their md5s, a dash and their number."""
    pieces: int


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """What a client offered, and what of it is to be sent."""

    wanted: tuple[WantedFile, ...]
    skipped: tuple[str, ...]


@dataclass(slots=True)
class ReceivedParts:
    """Which pieces have come, by the number of the file and of the piece, with the md5 hex of each."""

    plan: UploadPlan
    came: dict[tuple[int, int], str] = field(default_factory=dict)

    def check(self, file: int, piece: int) -> None:
        """Raises UsageError for a piece that was not asked for."""
        if not (0 <= file < len(self.plan.wanted) and 1 <= piece <= self.plan.wanted[file].pieces):
            raise UsageError("unknown_part", f"Part {piece} of file {file} is not one that was asked for.")

    def check_complete(self) -> None:
        """Raises UsageError naming the first file that is not as it was announced."""
        for number, file in enumerate(self.plan.wanted):
            hashes = [self.came.get((number, piece)) for piece in range(1, file.pieces + 1)]
            missing = [str(piece) for piece, found in enumerate(hashes, 1) if found is None]
            if missing:
                message = f"Of {file.path} the parts {', '.join(missing[:20])} did not come."
                raise UsageError("upload_incomplete", message, "Send them, then complete the upload again.")
            if combined([found for found in hashes if found]) != file.hash.strip('"').lower():
                message = f"{file.path} is not what was announced: its hash is another."
                raise UsageError("upload_mismatch", message, "Upload it again.")


def combined(hashes: Sequence[str]) -> str:
    """The etag of a file sent in pieces, as S3 makes it of their md5 hex."""
    if len(hashes) == 1:
        return hashes[0]
    joined = hashlib.md5(b"".join(bytes.fromhex(one) for one in hashes), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(hashes)}"


def make_plan(offered: Mapping[str, tuple[str, int]]) -> UploadPlan:
    """From paths with hash and number of pieces: the adapter's two files, or one archive; the rest is not sent.

    Raises UsageError for too much, AdapterError where that is no one adapter.
    """
    if not 1 <= len(offered) <= MAX_FILES:
        raise invalid("files", f"must name 1 to {MAX_FILES} files")
    wanted = tuple(
        WantedFile(path, name, offered[path][0], offered[path][1]) for name, path in _chosen(offered).items()
    )
    for file in wanted:
        if not 1 <= file.pieces <= MAX_PIECES:
            raise invalid("files[].numParts", f"must be from 1 to {MAX_PIECES}")
    paths = {file.path for file in wanted}
    return UploadPlan(wanted, tuple(path for path in offered if path not in paths))


def _chosen(offered: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """By the name each gets here, the path of each file that is wanted."""
    from edgelora_converters.peft.folder import FILES, MLX_FILES, adapter_files, adapter_folder

    archives = [path for path in offered if path.lower().endswith(ARCHIVES)]
    if len(archives) == 1 and not any(path.rpartition("/")[2] in (*FILES, *MLX_FILES) for path in offered):
        return {"upload": archives[0]}
    paths = set(offered)
    folder = adapter_folder(paths, where="The upload", depth=1, mlx=True)
    return {name: f"{folder}{name}" for name in adapter_files(paths, folder)}
