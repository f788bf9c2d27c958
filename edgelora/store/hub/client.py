"""The Hugging Face hub: what a repository holds, and the bytes of a file. Owns no file and no retry.

Settings are huggingface_hub's own: HF_ENDPOINT, HF_TOKEN or the login, HF_HUB_OFFLINE, its timeouts. Bytes come through
its HTTP session (httpx in 1.x, httpx2 in 2.x, one interface), not urllib: whatever proxy, certificates or client
factory make the metadata request work make this work too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from edgelora.core.errors import BaseError, NotFound, Offline
from edgelora.core.version import __version__
from edgelora.store.hub.download import Checksum, Interrupted, RemoteFile, Reply
from edgelora.store.hub.redirects import check_redirect, same_origin

MAX_REDIRECTS = 5
# Statuses that another attempt may cure. A storage server's 403 is a signed address that has run out.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_BY_HAND = "copy the files here: edgelora base add PATH for a model, edgelora add DIR for an adapter"


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit."""

    repository: str
    commit: str
    files: Mapping[str, RemoteFile]


class Hub:
    """`endpoint` and `token` default to huggingface_hub's settings."""

    def __init__(self, *, endpoint: str | None = None, token: str | None = None) -> None:
        from huggingface_hub import constants

        # Otherwise 2.x describes this machine in every request, and asks the hub first how to.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token = token

    def listing(self, repository: str, revision: str | None = None) -> Listing:
        """List a repository's files at `revision` (default: its main branch).

        Raises NotFound, BaseError for a repository this user may not read, Offline.
        """
        from huggingface_hub import HfApi, constants

        with _translated(repository, self.endpoint):
            api = HfApi(endpoint=self.endpoint, token=self._token)
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            info = api.model_info(repository, revision=revision, files_metadata=True, timeout=timeout)
        commit = info.sha
        if not commit or info.siblings is None:
            message = f"{self.endpoint} does not say what {repository} holds."
            raise BaseError("bad_hub", message, "Check that HF_ENDPOINT is a Hugging Face hub.")
        files = (self._file(repository, commit, entry) for entry in info.siblings)
        return Listing(repository, commit, {file.name: file for file in files if file is not None})

    @contextmanager
    def open_range(self, url: str, *, start: int, etag: str | None) -> Iterator[Reply]:
        """See `download.OpenRange`. Redirects are followed only where `redirects` allows, the token only at home."""
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = build_hf_headers(token=self._token, library_name="edgelora", library_version=str(__version__))
        headers["Accept-Encoding"] = "identity"
        if start > 0:
            headers["Range"] = f"bytes={start}-"
            if etag is not None:
                headers["If-Range"] = etag
        for _ in range(MAX_REDIRECTS + 1):
            with self._get(url, headers) as response:
                if not response.is_redirect:
                    self._check_status(response)
                    yield _reply(response)
                    return
                url = urljoin(url, response.headers["Location"])
                check_redirect(self.endpoint, url)
        raise BaseError("bad_redirect", f"{self.endpoint} redirects in circles.", "Check HF_ENDPOINT and the proxy.")

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str]) -> Iterator[Any]:
        from huggingface_hub import constants, get_session
        from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

        at_home = same_origin(self.endpoint, url)
        sent = {key: value for key, value in headers.items() if at_home or key.lower() != "authorization"}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        try:
            with get_session().stream("GET", url, headers=sent, follow_redirects=False, timeout=timeout) as response:
                yield response
        except OfflineModeIsEnabled as error:
            raise _offline() from error
        except HTTPError as error:
            raise Interrupted(_reason(error)) from error

    def _check_status(self, response: Any) -> None:
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        status, url = response.status_code, str(response.url)
        if status in _PASSING or (status == 403 and not same_origin(self.endpoint, url)):
            wait = _seconds(response.headers.get("Retry-After"))
            raise Interrupted(f"the server answered {status}", retry_after=wait)
        if status != 416:
            with _translated(url, self.endpoint):
                hf_raise_for_status(response)

    def _file(self, repository: str, commit: str, entry: Any) -> RemoteFile | None:
        """Return a file of a listing; None where the hub gives no size or hash to hold it to."""
        from huggingface_hub import hf_hub_url

        if entry.lfs is not None:
            checksum = Checksum("sha256", entry.lfs.sha256)
        elif entry.blob_id is not None:
            checksum = Checksum("git", entry.blob_id)
        else:
            return None
        if entry.size is None:
            return None
        url = hf_hub_url(repository, entry.rfilename, revision=commit, endpoint=self.endpoint)
        return RemoteFile(entry.rfilename, url, entry.size, checksum)


def _reply(response: Any) -> Reply:
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise Interrupted("the answer is compressed, although that was not asked for")
    etag = headers.get("ETag")
    strong = None if etag is None or etag.startswith("W/") else etag
    start, total = _extent(response.status_code, headers)
    # As they come in, not in blocks of one size: those would lose what they hold when the connection is cut.
    return Reply(start, total, strong, response.iter_raw())


def _extent(status: int, headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """(position of the first byte, bytes of the whole file) of an answer."""
    if status == 416:
        return None, None
    if status != 206:
        return 0, _number(headers.get("Content-Length"))
    extent, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    return _number(extent.partition("-")[0]), _number(total)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _seconds(text: str | None) -> float | None:
    number = _number(text)
    return None if number is None else float(number)


@contextmanager
def _translated(what: str, endpoint: str) -> Iterator[None]:
    """huggingface_hub's errors in this project's words."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise _offline() from error
    except errors.HFValidationError as error:
        raise NotFound("repository", what, (), "A repository is written organization/name.") from error
    except errors.GatedRepoError as error:
        remedy = f"Accept its licence at {endpoint}/{what}, then log in with `hf auth login` or set HF_TOKEN."
        raise BaseError("gated", f"{what} is given only to users who accepted its licence.", remedy) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        remedy = f"{endpoint} has none, or it is private: then log in with `hf auth login` or set HF_TOKEN."
        raise NotFound("repository", what, (), remedy) from error
    except errors.HfHubHTTPError as error:
        raise _unavailable(endpoint, f"it answered {error.response.status_code}") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]
        raise _unavailable(endpoint, _reason(error)) from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].strip().rstrip(".") or type(error).__name__


def _unavailable(endpoint: str, why: str) -> Offline:
    remedy = f"Check the connection (and HF_ENDPOINT), then try again; or {_BY_HAND}."
    return Offline("hub_unavailable", f"{endpoint} cannot be used: {why}.", remedy)


def _offline() -> Offline:
    remedy = f"Unset HF_HUB_OFFLINE; or {_BY_HAND}."
    return Offline("offline", "The network is needed and HF_HUB_OFFLINE forbids it.", remedy)
