"""The version of attngen: part of the cache's keys and folders, of emitted modules and of manifests."""

from __future__ import annotations

VERSION = "0.1.0"
