"""Settings of every test: a kernel cache that starts empty, and repeatable random problems in CI."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

# No deadline: the first example of a property may compile a kernel.
settings.register_profile("local", deadline=None, max_examples=30)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session", autouse=True)
def fresh_cache() -> Iterator[None]:
    """Compile everything again: a kernel left by an older version of the code must not pass a test.

    Set SEVENLOOPS_CACHE_DIR to keep the kernels between runs while working on the tests themselves.
    """
    if "SEVENLOOPS_CACHE_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="sevenloops-test-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEVENLOOPS_CACHE_DIR", folder)
        yield
