"""The page at /: what is sent, and that a browser is given no room. `python -m tests.system.page` tests what
it does.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest

from edgelora.server.page.routes import FILES, FOLDER
from tests.support.server import TEST_OPTIONS, RunningServer, serving
from tests.support.service import FakeService
from tests.system.page import __main__ as scenes


@pytest.mark.parametrize("path", FILES)
def test_every_file_is_served_under_its_name(server: RunningServer, path: str) -> None:
    """Each file has its media type, and a policy that allows only these files and this server's API."""
    reply = server.request("GET", path)
    name, media_type = FILES[path]
    assert (reply.status, reply.headers["content-type"]) == (200, media_type)
    assert reply.body == (FOLDER / name).read_bytes()
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_the_folder_holds_nothing_else() -> None:
    """Every file of the folder is served."""
    assert {path.name for path in FOLDER.iterdir()} == {name for name, _ in FILES.values()}


@pytest.mark.parametrize("name", [name for name, _ in FILES.values()])
def test_no_outside_resources_and_nothing_inline(name: str) -> None:
    """It works without a network: no URL but its own paths; and nothing that the policy would stop."""
    text = (FOLDER / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "//" not in re.sub(r"^\s*// .*$|; // .*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|javascript:|innerHTML|eval\(", text)


def test_every_id_the_script_uses_is_there() -> None:
    """The script's elements are the page's."""
    page, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("index.html", "page.js"))
    assert set(re.findall(r'\$\("([a-z-]+)"\)', script)) <= set(re.findall(r'\sid="([a-z-]+)"', page))


def test_without_a_browser_the_scenes_are_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m tests.system.page` says why, and that is no failure."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert scenes.main([]) == 0 and "there is no browser" in capsys.readouterr().out


def test_fields_have_labels() -> None:
    """Whoever cannot see the page hears what each field is for."""
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    labelled = set(re.findall(r'for="([a-z]+)"', page)) | set(
        re.findall(r'<label>[^<]*\s*<(?:input|select)(?: id="([a-z]+)")?', page)
    )
    assert set(re.findall(r'<(?:input|textarea) id="([a-z]+)"', page)) <= labelled


def test_a_key_is_asked_by_the_api_and_not_for_the_page(service: FakeService) -> None:
    """A browser cannot send a key when it opens the page: the files need none, what they show does."""
    with serving(service, replace(TEST_OPTIONS, api_key="s3cret")) as server:
        assert [server.request("GET", path).status for path in FILES] == [200] * len(FILES)
        closed = [server.request("GET", path).status for path in ("/v1/status", "/metrics", "/v1/models")]
        assert closed == [401] * 3


def test_the_page_may_call_its_own_server_and_no_other_page_may(server: RunningServer) -> None:
    """A browser sends Origin with a page's own POST: that of the very host and port is let in, any other is not."""
    body = b'{"model":"tiny","messages":[{"role":"user","content":"Hi"}]}'
    own = f"http://127.0.0.1:{server.port}"
    for origin, site, status in (
        (own, "same-origin", 200),
        (own, "cross-site", 403),
        (f"https://127.0.0.1:{server.port}", "same-origin", 403),
        (f"http://localhost:{server.port}", "same-site", 403),
        (f"http://127.0.0.1:{server.port + 1}", "same-site", 403),
        (f"{own}.evil.com", "cross-site", 403),
    ):
        headers = {"Content-Type": "application/json", "Origin": origin, "Sec-Fetch-Site": site}
        assert server.request("POST", "/v1/chat/completions", body, headers).status == status, origin


def test_a_page_elsewhere_cannot_frame_or_link_in(server: RunningServer) -> None:
    """Opened by another site's page it is refused like everything else."""
    assert server.request("GET", "/", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert server.request("GET", "/", headers={"Sec-Fetch-Site": "none"}).status == 200
