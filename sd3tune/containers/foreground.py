"""`sd3tune image run`: one container in the foreground: signals go in, output and exit code out.

The container is removed when it ends. Docker's SDK streams the output and leaves signals and the
size of the terminal to its caller. The one library that has them, dockerpty, had its last release
in 2016 and forwards no signals.
"""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from sd3tune.containers import engine
from sd3tune.containers.container_spec import Container, sdk_arguments

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(client: Any, c: Container) -> int:
    """Runs a container until it ends; returns its exit code. Raises ContainerError when it cannot
    start."""
    import docker

    try:
        container = client.containers.create(**sdk_arguments(c))
    except (docker.errors.APIError, docker.errors.ImageNotFound) as e:
        raise engine.explained(e, c.image) from None
    try:
        output = client.api.attach(container.id, stream=True, demux=not c.terminal)
        with _ForwardedSignals(container.id) as signals:
            try:
                container.start()
            except docker.errors.APIError as e:
                raise engine.explained(e, c.image) from None
            signals.started()
            if c.terminal:
                _resize(container)
            _copy(output, c.terminal)
            return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True, v=True)


def _resize(container: Any) -> None:
    """Progress bars as wide as the terminal they are seen in."""
    import docker

    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    try:
        container.resize(height=lines, width=columns)
    except docker.errors.APIError:  # it has just ended
        return


def _copy(output: Any, terminal: bool) -> None:
    """Copies the container's stdout and stderr to those of this process."""
    for part in output:
        for stream, data in zip(
            (sys.stdout, sys.stderr), (part, None) if terminal else part, strict=True
        ):
            if data:
                stream.buffer.write(data)
                stream.flush()


class _ForwardedSignals:
    """SIGINT, SIGTERM and SIGHUP go to the container; this process waits for it."""

    def __init__(self, container: str) -> None:
        self._container = container
        self._before: dict[int, Any] = {}
        self._waiting: list[int] | None = []  # until the container has started

    def __enter__(self) -> "_ForwardedSignals":
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._pass)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def started(self) -> None:
        early, self._waiting = self._waiting or [], None
        for number in early:
            self._pass(number, None)

    def _pass(self, number: int, frame: FrameType | None) -> None:
        if self._waiting is not None:
            self._waiting.append(number)
            return
        # A connection of its own: the main one is in the middle of reading.
        threading.Thread(target=self._kill, args=(number,), daemon=True).start()

    def _kill(self, number: int) -> None:
        import docker

        try:
            docker.APIClient(base_url=engine.address(), version="auto").kill(
                self._container, number
            )
        except docker.errors.APIError:  # it has just ended
            return


def captured(client: Any, c: Container) -> tuple[str, int]:
    """What a container wrote to stdout, and its exit code. Raises ContainerError."""
    import docker

    try:
        container = client.containers.create(**sdk_arguments(c))
    except (docker.errors.APIError, docker.errors.ImageNotFound) as e:
        raise engine.explained(e, c.image) from None
    try:
        container.start()
        code = int(container.wait()["StatusCode"])
        return container.logs(stdout=True, stderr=False).decode(errors="replace"), code
    except docker.errors.APIError as e:
        raise engine.explained(e, c.image) from None
    finally:
        container.remove(force=True, v=True)
