#!/usr/bin/env python3
"""llmd's prefill worker: computes prompts and hands their KV over."""
# SPDX-License-Identifier: Apache-2.0
import ops

from llmd_charm.worker import WorkerCharm


class Charm(WorkerCharm):
    """llmd's prefill worker: computes prompts and hands their KV over."""

    role = "prefill"


if __name__ == "__main__":
    ops.main(Charm)
