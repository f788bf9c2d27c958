"""A repository is named by its name or its URL on the hub, and by nothing else."""

from __future__ import annotations

import pytest

from edgelora.core.errors import UsageError
from edgelora.runtime.install.sources import HubSource
from edgelora.server.management.hub_source import parse_repository


@pytest.mark.parametrize(("text", "found"), [
    ("org/repo", HubSource("org/repo")),
    ("hf:org/repo", HubSource("org/repo")),
    ("hf:org/My.Repo_1@v1.0", HubSource("org/My.Repo_1", "v1.0")),
    ("org/repo@refs/pr/1", HubSource("org/repo", "refs/pr/1")),
    ("https://huggingface.co/org/repo", HubSource("org/repo")),
    ("https://huggingface.co/org/repo/", HubSource("org/repo")),
    ("https://www.huggingface.co/org/repo/tree/main", HubSource("org/repo")),
    ("https://hf.co/org/repo/tree/v2/adapters/sql", HubSource("org/repo", "v2", "adapters/sql")),
])  # fmt: skip
def test_each_form_names_its_repository(text: str, found: HubSource) -> None:
    """Name and address come to the same."""
    assert parse_repository(text, token=None, param="source") == found


@pytest.mark.parametrize("text", [
    "", "repo", "org/", "/etc/passwd", "../x/y", "org/../x", "org/repo/x", "./org/repo", "org\\repo", "hf:/etc/passwd",
    "file:///etc/passwd", "http://huggingface.co/org/repo", "https://huggingface.co", "https://huggingface.co/org",
    "https://huggingface.co.evil.example/org/repo", "https://evil.example/org/repo", "https://huggingface.co@evil.example/o/r",
    "https://huggingface.co:8080/org/repo", "https://user:pass@huggingface.co/org/repo", "https://huggingface.co/org/repo?x=y",
    "https://huggingface.co/org/repo#x", "https://huggingface.co//org/repo", "https://127.0.0.1/org/repo",
    "https://s3.amazonaws.com/bucket/adapter.zip", "https://huggingface.co/org/repo/resolve/main/x", "org/repo@../x",
    "org/repo@a..b", "org/repo\n", "org/re po", "ｏrg/repo", "https://huggingface.co/org%2frepo", "s3://bucket/key",
    "https://huggingface.co/org/repo/tree/main/../../x", "HTTPS://HUGGINGFACE.CO/org/repo",
])  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    """No other host, scheme, port, user, query or path; the refusal names the field and repeats nothing of it."""
    with pytest.raises(UsageError) as caught:
        parse_repository(text, token=None, param="source")
    assert (caught.value.code, caught.value.param) == ("source_not_allowed", "source")


def test_a_token_is_never_shown() -> None:
    """Not in a repr, not in the source's words, and one that cannot stand in a header is refused without it."""
    source = parse_repository("org/repo", token="hf_secret", param="source")
    assert source.token == "hf_secret" and "secret" not in repr(source) + str(source)
    for token in ("hf_secret\r\nX: y", "hf secret", "hf_sécret", "x" * 513):
        with pytest.raises(UsageError) as caught:
            parse_repository("org/repo", token=token, param="source")
        assert caught.value.param == "token" and token not in str(caught.value)
