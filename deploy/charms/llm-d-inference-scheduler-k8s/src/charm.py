#!/usr/bin/env python3
"""llmd's inference scheduler: one OpenAI-compatible door for all workers."""
# SPDX-License-Identifier: Apache-2.0
import ops

from llmd_charm.scheduler import SchedulerCharm


class Charm(SchedulerCharm):
    """llmd's inference scheduler: one OpenAI-compatible door for all workers."""


if __name__ == "__main__":
    ops.main(Charm)
