"""A headless Chromium, driven through its DevTools pipe: no driver, no WebSocket, nothing but the browser."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless_shell")
PATIENCE_S = 60


def find_browser() -> str | None:
    """Return the path of a Chromium, or `None`; CHROMIUM names one that is not on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in one browser.

    Args:
        profile: a directory for the browser's files.
        language: that the browser asks for.
    """

    def __init__(self, profile: Path, language: str = "en-US") -> None:
        # DevTools reads from descriptor 3 and writes to 4, each message ending with a zero byte.
        their_input, self._out = os.pipe()
        self._in, their_output = os.pipe()
        # High numbers first, so that moving them to 3 and 4 in the child overwrites neither.
        script = f'exec "$@" 3<&{their_input} 4>&{their_output}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        flags += [
            f"--user-data-dir={profile}",
            f"--lang={language}",
            f"--accept-lang={language}",
            "--no-first-run",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            ["bash", "-c", script, "chromium", find_browser(), *flags],
            pass_fds=(their_input, their_output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LANGUAGE": language.replace("-", "_")},
        )
        os.close(their_input)
        os.close(their_output)
        self._numbers, self._buffer, self.complaints = itertools.count(1), b"", []
        target = self._ask("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True}, None)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters):
        """Send a command of the DevTools protocol, and return its result."""
        return self._ask(method, parameters, self._session)

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)

    def evaluate(self, script: str):
        """Return the value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, script: str):
        """Wait until an expression in the page is true, and return its value."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            value = self.evaluate(script)
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(
            f"waited {PATIENCE_S} s in vain for {script}; the page: {self.evaluate('document.body.innerText')}"
        )

    def resize(self, width: int, height: int) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, scheme: str) -> None:
        """Have the system prefer `light` or `dark`."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def photograph(self, path: Path) -> None:
        """Write a picture of the whole page."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self._in)
        os.close(self._out)

    def _ask(self, method: str, parameters: dict, session: str | None):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self._listen(answer)

    def _listen(self, event: dict) -> None:
        """Keep what the page complains of: scripts that fail, and what its own policy forbids."""
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(event["params"]["exceptionDetails"])
        elif event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.complaints.append(event["params"]["entry"]["text"])
        elif event.get("method") == "Page.javascriptDialogOpening":
            self._dialogue = event["params"]

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            more = os.read(self._in, 1 << 20)
            if not more:
                raise AssertionError(f"the browser ended with {self.process.wait(20)}")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
