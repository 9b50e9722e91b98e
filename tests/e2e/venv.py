"""A private Python environment for peers (openai-python, pyzmq): made once in the cache folder."""
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

from harness import skip

PACKAGES = ["openai==3.57", "pyzmq", "msgpack", "jinja2==3.1.6"]


def python():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    home = os.path.join(cache, "llmd", "test-venv-1")
    exe, mark = os.path.join(home, "bin", "python"), os.path.join(home, "complete")
    if not os.path.exists(mark):
        steps = [[sys.executable, "-m", "venv", home], [exe, "-m", "pip", "install", "-q", *PACKAGES]]
        for s in steps:
            r = subprocess.run(s, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if r.returncode != 0:
                skip(f"no peer environment ({' '.join(PACKAGES)}): {r.stdout.strip()[-200:]}")
        open(mark, "w").close()
    return exe


def inside():
    """Runs the calling script again inside the environment, unless it is there already."""
    if os.environ.get("LLMD_IN_VENV") == "1":
        return
    exe = python()
    os.execve(exe, [exe, *sys.argv], dict(os.environ, LLMD_IN_VENV="1"))
