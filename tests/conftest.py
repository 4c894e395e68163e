"""Fixtures of every test: a fixed seed, and global settings put back."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Random numbers repeat; threads, default dtype and warnings are put back after each test."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_warn_always(False)
