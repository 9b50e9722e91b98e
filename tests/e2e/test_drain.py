"""A worker that is told to end finishes what runs, takes nothing new, and ends with status 0; what its
grace does not cover ends with an error that says so."""
# SPDX-License-Identifier: Apache-2.0
import signal
import threading

from harness import Setup, prompt_of, request, wait_for

LONG = 60  # tokens


class Running(threading.Thread):
    """A stream that is read to its end in a thread of its own; `begun` once it has text."""

    def __init__(self, s, seed, tokens, port=None):
        super().__init__(daemon=True)
        self.begun, self.stream = threading.Event(), None
        self.args = s, {"prompt": prompt_of(40, seed), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}, port
        self.events = 0
        self.start()

    def run(self):
        s, body, port = self.args
        self.stream = s.stream("/v1/completions", body, port=port)
        for _ in self.stream:
            self.events += 1
            self.begun.set()


def all_begun(streams):
    for r in streams:
        assert r.begun.wait(30), "a stream does not begin"


def all_ended(streams):
    for r in streams:
        r.join(30)
        assert not r.is_alive(), "a stream hangs"


def running_streams_end_well(s, leaving):
    streams = [Running(s, i, LONG) for i in range(6)]
    all_begun(streams)
    leaving.signal(signal.SIGTERM)
    wait_for("it says that it is leaving or refuses", lambda: gone_or_leaving(leaving), 5)
    for i in range(4):
        r = s.ask("/v1/completions", {"prompt": prompt_of(40, 50 + i), "max_tokens": 2})
        assert r.status == 200, r.body
    all_ended(streams)
    for r in streams:
        assert r.stream.done and r.stream.error is None, r.stream.error
        assert r.events == LONG + 1 or r.events == LONG, r.events
    assert leaving.process.wait(25) == 0


def gone_or_leaving(part):
    try:
        return request(part.port, "GET", "/health/ready", timeout=2).status == 503
    except ConnectionError:
        return True


def after_the_grace_an_error_says_so(s, leaving):
    leaving.args += ["--shutdown-timeout", "1"]
    leaving.restart()
    wait_for("it is back", leaving.ready, 60)
    streams = [Running(s, 90 + i, 1500, leaving.port) for i in range(2)]
    all_begun(streams)
    leaving.signal(signal.SIGTERM)
    all_ended(streams)
    for r in streams:
        assert r.stream.error is not None and "shutting down" in r.stream.error["message"], r.stream.error
        assert not r.stream.done, "[DONE] after an error"
    assert leaving.process.wait(10) == 0


with Setup(["decode", "decode"], ["--shutdown-timeout", "20"]) as s:
    running_streams_end_well(s, s.workers[0])
    after_the_grace_an_error_says_so(s, s.workers[0])
    print("running streams finish, new ones go elsewhere, status 0; after the grace an error and no [DONE]")
