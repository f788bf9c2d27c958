"""The limit of open descriptors: raised as far as it may be, and never an error."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgelora.core.descriptors import WANTED

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")

CHILD = """
import resource
from edgelora.core.descriptors import raise_limit
soft, hard = map(int, {limits!r})
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "after"), [(64, 128, 128), (128, 128, 128), (64, 1024, 1024)])
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int, after: int) -> None:
    """In a process of its own, since a hard limit cannot be raised again."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(limits=(soft, hard))], capture_output=True, text=True, check=True
    )
    assert [int(number) for number in done.stdout.split()] == [after, after, hard]
    assert after <= WANTED


def test_a_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS refuses what its kernel does not allow, whatever the hard limit says."""
    import resource

    from edgelora.core.descriptors import raise_limit

    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_limit() == 256
