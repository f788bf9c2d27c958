"""A script: a server over a scripted service, to be killed. Prints its port and management token on one line.

python -m tests.support.upload_kill FOLDER
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.support.managing import managing
from tests.support.service import FakeService

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with FakeService(folder, adapters={}) as service, managing(service, folder / "secrets") as manager:
        print(manager.server.port, manager.token, flush=True)
        threading.Event().wait()
