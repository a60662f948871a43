"""Calls as on an H200, up to what needs one: Triton's own launcher binds arguments and lowers each kernel; nothing is assembled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.runtime import jit
from triton.runtime.driver import driver

from attngen.interpreter import interpreter


class Device:
    """What the launcher asks a driver for."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@contextlib.contextmanager
def front_end() -> Iterator[list[tuple[str, dict[str, str]]]]:
    """Kernels on CPU tensors go to the front end meanwhile; the name and the types of the arguments of each that is lowered are added."""
    lowered: list[tuple[str, dict[str, str]]] = []
    run = jit.JITFunction.run

    def lower(self: Any, key: Any, signature: dict[str, str], device: int, constexprs: Any, options: Any, attrs: Any, warmup: bool) -> None:
        cache, _, target, backend, _ = self.device_caches[device]
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        source = self.ASTSource(self, signature, constexprs, attrs)
        source.make_ir(target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)
        lowered.append((self.__name__, {name: kind for name, kind in signature.items() if kind != "constexpr"}))
        cache[key] = object()

    def device_of(tensor: object) -> contextlib.AbstractContextManager[None]:
        assert isinstance(tensor, torch.Tensor), "launches take the device of their first argument"
        return contextlib.nullcontext()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_active", Device())
        patch.setattr(interpreter, "interpreted", lambda module: module)
        patch.setattr(torch.cuda, "device_of", device_of)
        patch.setattr(jit.JITFunction, "_do_compile", lower)
        patch.setattr(jit.JITFunction, "run", lambda self, *args, warmup, **kwargs: run(self, *args, warmup=True, **kwargs))
        yield lowered
