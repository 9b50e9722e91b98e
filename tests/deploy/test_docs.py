#!/usr/bin/env python3
"""Every block of README.md and docs/ops says what a test does with it, and every session that follows some exists."""
# SPDX-License-Identifier: Apache-2.0
import os
import sys

import doc_commands as d
import objects as k

# Who follows: make docs-test, and the scenario docs of tests/kube/run.
SESSIONS = {"host", *d.KUBE}
SAMPLE = """text

<!-- followed: host -->
    one \\
      more
    # remark
    two

    three

- a list
    goes on

```
fenced
```

<!-- needs, to the end: a moon -->
    four

    that is the same block

<!-- shows: a file -->
    five

text again

    six
"""


def reader():
    got = [(b.line, b.verb, b.what, b.commands()) for b in d.blocks("p", SAMPLE)]
    want = [(4, "followed", "host", ["one \\\n  more", "two", "three"]), (14, None, "", ["fenced"]),
            (19, "needs", "a moon", ["four", "that is the same block"]), (24, "shows", "a file", ["five"]), (28, "needs", "a moon", ["six"])]
    k.say("blocks and their marks are found", [] if got == want else [f"{g} is not {w}" for g, w in zip(got, want) if g != w] or ["count"])


def main():
    reader()
    for page in d.pages():
        found = d.read(page)
        bad = [f"{b}: not marked (tests/deploy/doc_commands.py says how): {b.text.splitlines()[0]}" for b in found if b.verb is None]
        bad += [f"{b}: no test follows {s}" for b in found if b.verb == "followed" for s in b.what.split(", ") if s not in SESSIONS]
        k.say(f"{page}: {sum(b.verb == 'followed' for b in found)} of {len(found)} blocks are followed", bad)
    told = [s for s in SESSIONS if not any(d.followed(p, s) for p in d.pages())]
    k.say("every session follows something", told)
    for page in d.pages():
        with open(os.path.join(k.ROOT, page)) as f:
            k.say(f"{page}: no mark is misspelt", [line for line in f.read().splitlines() if line.startswith("<!--") and not d.MARK.match(line)])
    print(f"{k.failed} failed")
    sys.exit(k.failed != 0)


if __name__ == "__main__":
    main()
