#!/usr/bin/env python3
"""The blocks of README.md and docs/ops.  A comment before each, which readers do not see, says what a test does with it:

  <!-- followed: SESSION, ... -->   commands, or Python; run word by word, in order with the page's others of that session
  <!-- needs: WHAT -->              commands that are not run, as WHAT is not there
  <!-- shows: WHAT -->              no commands

'<!-- needs, to the end: WHAT -->' holds for every block after it.

  doc_commands.py [PAGE ...]          follows the session host: a fresh clone of this repository, on loopback
"""
# SPDX-License-Identifier: Apache-2.0
import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MARK = re.compile(r"<!-- (followed|needs|shows)(, to the end)?: (.+?) -->$")
PYTHON = re.compile(r"from \S+ import ")
PORT = "8080"
KUBE = ("images", "helm", "kustomize", "alone", "vllm")  # sessions of the scenario docs of tests/kube/run
# Commands that serve until Ctrl-C, and what they say when they do.
SERVE = ((r"(make|llmd) up\b(?!.*--check)", "Ctrl-C ends"), (r"kubectl .*port-forward", "Forwarding from"))
# What an answer must have besides exit status 0.
SAY = ((r"(make|llmd) up\b(?!.*--check)", r"tokens/s; [1-9][\d.]* KB of KV handed over"), (r"curl .*chat/completions", r'"choices"'),
       (r"llmd chat", r"tokens/s\)"), (r"llmd status", r"decode\S* .*used"), (r"from openai", r"content='.+'"), (r"helm test", "Succeeded"))


class Block:
    def __init__(self, page, line, verb, what, text):
        self.page, self.line, self.verb, self.what, self.text = page, line, verb, what, text

    def __str__(self):
        return f"{self.page}:{self.line}"

    def commands(self):
        """One a line; a line may go on after a backslash."""
        if PYTHON.match(self.text):
            return [self.text]
        return [c for c in re.split(r"(?<!\\)\n", self.text) if c.strip() and not c.lstrip().startswith("#")]


def blocks(page, text):
    """Indented and fenced blocks, with the mark of each; one without a mark has the verb None."""
    out, lines, mark, rest, i = [], text.splitlines(), None, None, 0
    while i < len(lines):
        m, fence = MARK.match(lines[i]), re.match(r"(```+|~~~+)", lines[i])
        begin = i
        if m:
            mark, rest = (m.group(1), m.group(3)), (m.group(1), m.group(3)) if m.group(2) else rest
        elif fence or (lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip() or MARK.match(lines[i - 1]))):
            if fence:
                i += 1
                while i < len(lines) and lines[i].strip() != fence.group(1):
                    i += 1
                body = lines[begin + 1:i]
            else:
                while i + 1 < len(lines) and (lines[i + 1].startswith("    ") or not lines[i + 1].strip()):
                    i += 1
                body = [line[4:] for line in lines[begin:i + 1]]
            verb, what = mark or rest or (None, "")
            out.append(Block(page, begin + 1, verb, what, "\n".join(body).strip("\n")))
            mark = None
        elif lines[i].strip():
            mark = None
        i += 1
    return out


def pages():
    return ["README.md"] + sorted(os.path.relpath(f, ROOT) for f in glob.glob(os.path.join(ROOT, "docs", "ops", "*.md")))


def read(page):
    with open(os.path.join(ROOT, page)) as f:
        return blocks(page, f.read())


def followed(page, session):
    return [b for b in read(page) if b.verb == "followed" and session in b.what.split(", ")]


class Wrong(AssertionError):
    pass


def ctrl_c(p, inside):
    """What it does in a terminal: SIGINT to all of the foreground; not to the helper that entered namespaces, where there is one."""
    if not inside:
        return os.killpg(p.pid, signal.SIGINT)
    for pid in subprocess.run(["pgrep", "-g", str(p.pid)], stdout=subprocess.PIPE, text=True).stdout.split():
        if int(pid) != p.pid:
            os.kill(int(pid), signal.SIGINT)


class Session:
    """Follows blocks: one shell a command, in one folder; a command that serves does so until the next one that serves."""

    def __init__(self, folder, env, inside=(), python="python3", port=PORT):
        self.folder, self.env, self.inside, self.python, self.port = folder, env, list(inside), python, port
        self.server, self.count = None, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.server:
            self.server[1].send_signal(signal.SIGKILL)
            self.end(check=False)

    def argv(self, command):
        if PYTHON.match(command):
            return [*self.inside, self.python, "-c", command]
        return [*self.inside, "bash", "-euo", "pipefail", "-c", command]

    def follow(self, block):
        for command in block.commands():
            begin, self.count = time.monotonic(), self.count + 1
            command = command.replace(PORT, self.port)
            if self.port != PORT and "llmd up" in command:
                command = command.replace("llmd up", f"llmd up --listen 127.0.0.1:{self.port}")
            if re.match("llmd up|helm uninstall|kubectl delete", command):
                self.end()  # the first wants its port, the others end what it serves
            serves = next((ready for pattern, ready in SERVE if re.match(pattern, command)), None)
            out = self.serve(command, serves) if serves else self.run(command)
            for pattern, wanted in SAY:
                if re.search(pattern, command, re.S) and not re.search(wanted, out):
                    raise Wrong(f"{block}: {command}\nnot said: {wanted}\n{out[-3000:]}")
            print(f"  {time.monotonic() - begin:5.1f} s  {block}: {command.splitlines()[0][:110]}", flush=True)

    def run(self, command):
        r = subprocess.run(self.argv(command), cwd=self.folder, env=self.env, input="Say hello.\n", text=True, timeout=900,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if r.returncode != 0:
            raise Wrong(f"{command}\nexit status {r.returncode}\n{r.stdout[-3000:]}")
        return r.stdout

    def serve(self, command, ready):
        self.end()
        log = tempfile.TemporaryFile("w+")
        p = subprocess.Popen(self.argv("exec " + command), cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                             stderr=subprocess.STDOUT, start_new_session=True)
        self.server, said, begin = (command, p, log), "", time.monotonic()
        while not re.search(ready, said):
            if p.poll() is not None or time.monotonic() - begin > 900:
                raise Wrong(f"{command}\nended with {p.poll()}, did not say {ready!r}\n{said[-3000:]}")
            time.sleep(0.1)
            log.seek(0)
            said = log.read()
        return said

    def end(self, check=True):
        if not self.server:
            return
        (command, p, log), self.server = self.server, None
        if p.poll() is None:
            ctrl_c(p, self.inside)
        try:
            status = p.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            status = f"{p.wait()}, after 30 s"
        log.seek(0)
        said = log.read()
        # make and kubectl die of the signal
        if check and (status not in (0, 2, -signal.SIGINT, 128 + signal.SIGINT) or (status != 0 and command.startswith("llmd"))):
            raise Wrong(f"{command}\nended with {status}\n{said[-2000:]}")


def port():
    """The one of the pages, or another when that is taken."""
    for p in (PORT, "18080", "28080"):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", int(p)))
                return p
            except OSError:
                print(f"port {p} is taken", flush=True)
    raise Wrong("no port is free")


def main():
    sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
    from venv import python
    folder, at = tempfile.mkdtemp(prefix="llmd-docs-"), port()
    clone = os.path.join(folder, "llmd")
    env = {**os.environ, "PATH": f"{clone}/build/src/cmd:{os.environ['PATH']}"}
    for name in ("BUILD", "LLMD", "LLMD_API_KEY"):
        env.pop(name, None)
    if at != PORT:
        env["UP_FLAGS"] = f"--listen 127.0.0.1:{at}"
    try:
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        with Session(clone, env, python=python(), port=at) as s:
            for page in sys.argv[1:] or pages():
                for b in followed(page, "host"):
                    s.follow(b)
                s.end()
    except Wrong as e:
        print(f"FAIL {e}")
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{s.count} commands of the pages were followed")
    sys.exit(0 if s.count else 1)


if __name__ == "__main__":
    main()
