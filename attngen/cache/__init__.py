"""The cache of compiled kernels: keys (`key`), a store on disk (`store`), and the import of stored modules (`load`).

Independent of torch and triton, so that the command line lists and clears the cache fast.
"""

from __future__ import annotations

from attngen.cache.entry import Artefacts, Entry
from attngen.cache.key import Toolchain, folder_hash, kernel_key, request_key, source_hash
from attngen.cache.load import load_module
from attngen.cache.store import CacheWarning, Store, open_store

__all__ = [
    "Artefacts",
    "CacheWarning",
    "Entry",
    "Store",
    "Toolchain",
    "folder_hash",
    "kernel_key",
    "load_module",
    "open_store",
    "request_key",
    "source_hash",
]
