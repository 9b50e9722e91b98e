"""A worker is asked whether it tokenizes as the scheduler does: the same is said, and another tokenizer is loud, costs the
exact prefixes and nothing else."""
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import tempfile

from harness import LLMD, Setup, free_port, main, metric, request, wait_for

OTHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "tokjson", "bytes_nfc")
PROMPT = {"prompt": "The three primary colours are red, green and ", "max_tokens": 2}


def worker_part(port):
    return next(p for p in request(port, "GET", "/v1/status").json()["parts"] if p["name"] not in ("scheduler", "cache"))


def estimates(port):
    return metric(port, "llmd_render_estimate_total")


def probes(port, result):
    return metric(port, "llmd_scheduler_token_probes_total", f'result="{result}"')


def a_worker_with_the_same_tokenizer_is_asked_once_a_life():
    with Setup(["both"], cache=False) as s:
        wait_for("it is known", lambda: worker_part(s.port)["tokens"] == "same")
        assert s.ask("/v1/completions", PROMPT).status == 200
        assert probes(s.port, "same") == 1 and estimates(s.port) == 0
        worker = s.workers[0]
        worker.signal(9)
        worker.restart()
        wait_for("the new process is asked, too", lambda: probes(s.port, "same") == 2, 60)
        another_tokenizer_is_told_and_distrusted(s)


def another_tokenizer_is_told_and_distrusted(s):
    door = free_port()
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        p = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{door}", "--model", OTHER,
                              "--endpoint", f"127.0.0.1:{s.workers[0].port}"], stdout=log, stderr=log)
        try:
            wait_for("it is known", lambda: worker_part(door)["tokens"] == "different")
            part = wait_for("the status says what that means", lambda: "estimated" in (w := worker_part(door))["reason"] and w)
            assert part["state"] == "used"
            text = open(log.name).read()
            assert "tokenizes otherwise than --model" in text and "level=error" in text, text
            before = estimates(door)
            assert request(door, "POST", "/v1/completions", {"model": s.model, **PROMPT}).status == 200
            assert estimates(door) == before + 1
            # ids are ids: nothing is guessed where nothing is tokenized
            assert request(door, "POST", "/v1/completions", {"model": s.model, "prompt": [1, 2, 3], "max_tokens": 1}).status == 200
            assert estimates(door) == before + 1
        finally:
            p.terminate()
            assert p.wait(15) == 0


main(a_worker_with_the_same_tokenizer_is_asked_once_a_life)
