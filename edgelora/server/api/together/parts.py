"""The plan of an upload in parts: the files to send, the number of their parts, and whether all have come. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgelora.core.errors import UsageError
from edgelora.server.http.validation import invalid

MAX_FILES = 256
MAX_PARTS = 512
"""Maximum number of parts of one file; Together's clients send parts of 20 MiB."""
ARCHIVES = (".zip", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class PlannedFile:
    path: str
    """The client's path of the file."""
    name: str
    """The name under which it is stored."""
    hash: str
    """MD5 of the file in hex; of several parts, the MD5 of their MD5s, a dash and their number."""
    parts: int
    """Number of parts."""


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """The files that a client must send, and the paths of those it offered that are not needed."""

    files: tuple[PlannedFile, ...]
    skipped: tuple[str, ...]


@dataclass(slots=True)
class ReceivedParts:
    """The parts of an upload that have come."""

    plan: UploadPlan
    hashes: dict[tuple[int, int], str] = field(default_factory=dict)
    """MD5 of each part in hex, by the number of the file from 0 and of the part from 1."""

    def check(self, file: int, part: int) -> None:
        """Raises UsageError for a part that is not in the plan."""
        if not (0 <= file < len(self.plan.files) and 1 <= part <= self.plan.files[file].parts):
            raise UsageError("unknown_part", f"Part {part} of file {file} is not part of the upload.")

    def check_complete(self) -> None:
        """Raises UsageError for the first file with a missing part or another hash than announced."""
        for number, file in enumerate(self.plan.files):
            hashes = [self.hashes.get((number, part)) for part in range(1, file.parts + 1)]
            missing = [str(part) for part, md5 in enumerate(hashes, 1) if md5 is None]
            if missing:
                message = f"The parts {', '.join(missing[:20])} of {file.path} are missing."
                raise UsageError("upload_incomplete", message, "Send them, then complete the upload again.")
            if combined([md5 for md5 in hashes if md5]) != file.hash.strip('"').lower():
                message = f"{file.path} does not have the hash that was announced."
                raise UsageError("upload_mismatch", message, "Upload it again.")


def combined(hashes: Sequence[str]) -> str:
    """Return the ETag of a file sent in parts, as S3 makes it of their MD5s."""
    if len(hashes) == 1:
        return hashes[0]
    joined = hashlib.md5(b"".join(bytes.fromhex(md5) for md5 in hashes), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(hashes)}"


def make_plan(offered: Mapping[str, tuple[str, int]]) -> UploadPlan:
    """Return the plan for the offered files: an adapter's two files, or one archive; all others are skipped.

    `offered`: hash and number of parts by path. Raises UsageError for too many files or parts, and AdapterError if the
    files are not one adapter.
    """
    if not 1 <= len(offered) <= MAX_FILES:
        raise invalid("files", f"must name 1 to {MAX_FILES} files")
    files = tuple(
        PlannedFile(path, name, offered[path][0], offered[path][1]) for name, path in _chosen(offered).items()
    )
    for file in files:
        if not 1 <= file.parts <= MAX_PARTS:
            raise invalid("files[].numParts", f"must be from 1 to {MAX_PARTS}")
    paths = {file.path for file in files}
    return UploadPlan(files, tuple(path for path in offered if path not in paths))


def _chosen(offered: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """Return the path of each file to send, by the name under which it is stored."""
    from edgelora_converters.peft.folder import FILES, MLX_FILES, adapter_files, adapter_folder

    archives = [path for path in offered if path.lower().endswith(ARCHIVES)]
    if len(archives) == 1 and not any(path.rpartition("/")[2] in (*FILES, *MLX_FILES) for path in offered):
        return {"upload": archives[0]}
    paths = set(offered)
    folder = adapter_folder(paths, where="The upload", depth=1, mlx=True)
    return {name: f"{folder}{name}" for name in adapter_files(paths, folder)}
