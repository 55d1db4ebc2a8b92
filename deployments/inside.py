"""`python -m deployments.inside COMMAND …`: a run's command in a container, which may have to come in by the door.

prefect.yaml gives it to the docker pool. Where the server listens on the host's loopback only and the home that is
mounted has a door, the API stands on the container's own loopback, at the port that it has on the host; elsewhere, as
with a server on the network, the command runs as it is. It becomes the command, so signals and exit code are its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from deployments.door import door_of
from tidegate.process.kinship import die_with_parent
from tidegate.settings import Settings

THE_HOST = ("host.docker.internal", "127.0.0.1", "localhost")
"""How a docker worker calls the machine that it runs on."""
USUAL_PORT = 4200


def come_in(door: Path) -> None:
    """Relay the API through the door, and say where it is now."""
    api = urlsplit(os.environ.get("PREFECT_API_URL", ""))
    if api.hostname not in THE_HOST or not door.is_socket():
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", api.port or USUAL_PORT))  # as outside: the server looks at the Host that it is sent
        listener.listen(128)
        listener.set_inheritable(True)
        subprocess.Popen(
            [sys.executable, "-m", "deployments.door", "inside", str(listener.fileno()), str(door)],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}{api.path}"


def main(words: list[str]) -> int:
    come_in(door_of(Settings.load().store.home))
    os.execvp(words[0], words)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
