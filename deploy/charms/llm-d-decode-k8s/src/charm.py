#!/usr/bin/env python3
"""llmd's decode worker: takes KV over, generates, streams."""
# SPDX-License-Identifier: Apache-2.0
import ops

from llmd_charm.worker import WorkerCharm


class Charm(WorkerCharm):
    """llmd's decode worker: takes KV over, generates, streams."""

    role = "decode"


if __name__ == "__main__":
    ops.main(Charm)
