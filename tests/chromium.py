"""Headless Chromium through the DevTools protocol, over a pipe: no driver and no package."""

import json
import os
import subprocess
import sys
from pathlib import Path

START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio")


class Chromium:
    """A browser of its own profile, ended with the `with` block."""

    def __init__(self, program: str, profile: Path):
        (read, self._out), (self._in, write) = os.pipe(), os.pipe()
        flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        command = [sys.executable, "-c", START, str(read), str(write), program, *flags]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, pass_fds=(read, write), **quiet)
        os.close(read)
        os.close(write)
        self._rest, self._number, self.events = b"", 0, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, session: str | None = None, **params) -> dict:
        """The result of a method; events that come meanwhile are kept."""
        self._number += 1
        number, to = self._number, {"sessionId": session} if session else {}
        os.write(self._out, json.dumps({"id": number, "method": method, "params": params, **to}).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def event(self, method: str, session: str) -> dict:
        """The first event of a name that was not taken yet, waited for."""
        while True:
            for message in self.events:
                if message.get("method") == method and message.get("sessionId") == session:
                    self.events.remove(message)
                    return message["params"]
            self.events.append(self._next())

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._in, 2**16)
            assert part, "the browser has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def tab(self, url: str) -> "Tab":
        """A new tab, loaded."""
        target = self.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        return Tab(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"], url)


class Tab:
    """A page."""

    def __init__(self, browser: Chromium, session: str, url: str):
        self._browser, self._session = browser, session
        self.call("Page.enable")
        self.call("Page.navigate", url=url)
        browser.event("Page.loadEventFired", session)

    def call(self, method: str, **params) -> dict:
        return self._browser.call(method, self._session, **params)

    def reload(self):
        self.call("Page.reload")
        self._browser.event("Page.loadEventFired", self._session)

    def press(self, key: str):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def value(self, expression: str):
        """Of a JavaScript expression, a promise's when it has one."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, condition: str):
        """Waits, change by change of the page, until an expression is true; returns what it is."""
        return self.value(
            f"""new Promise((done) => {{
                const look = () => {{ const found = {condition}; if (found) {{ watch.disconnect(); done(found); }} }};
                const watch = new MutationObserver(look);
                watch.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
                look();
            }})"""
        )
