"""The cache as a process sees it: which one, what its keys hold of the toolchain, and modules in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from attngen.cache.entry import Artefacts, Entry
from attngen.cache.key import Toolchain, folder_hash, source_hash
from attngen.cache.store import Store, open_store
from attngen.errors import MissingKernel
from attngen.knobs import Knobs, code_knobs
from attngen.package_files import templates_dir
from attngen.pipeline import VERSION


def stored(cache_: Store, key: str, text: str, knobs: Knobs, missing: Callable[[], MissingKernel]) -> Entry:
    """A module in the cache, `kernels.py`, whose key holds the hash of its text.

    Raises:
        MissingKernel: strict mode, and it is not there.
    """
    entry = cache_.try_load(key)
    if entry is None:
        if knobs.strict:
            raise missing()
        entry = cache_.build(key, lambda: Artefacts({"kernels.py": text.encode()}, {"kind": "module"}))
    return entry


@cache
def store(knobs: Knobs) -> Store:
    """The cache of this process."""
    import sys

    abi = f"py{sys.version_info.major}{sys.version_info.minor}-triton{triton_version()}-torch{torch.__version__}".replace("+", "_")
    return open_store(VERSION, abi, knobs.cache_dir)


@cache
def toolchain(knobs: Knobs) -> Toolchain:
    """Everything besides the variant that emitted and compiled code depends on."""
    return Toolchain(
        attngen=VERSION,
        triton=triton_version(),
        ptxas=triton_version(),
        torch=torch.__version__,
        templates=folder_hash(templates_dir()),
        source=source_hash(),
        code_knobs=code_knobs(knobs),
    )


@cache
def triton_version() -> str:
    """The installed version of Triton, "none" without one."""
    from importlib import metadata

    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"
