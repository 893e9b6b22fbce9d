"""The server that tests fork from imports this: what a process does once, such as compiling kernels, is done here."""

import contextlib
import os

from burnish.kernels.document_attention import whole_vectors
from burnish.kernels.native import CannotCompile, native
from tests.machines import without_bf16

for name in ("attend", "decode", "elementwise", "rotate"):
    with contextlib.suppress(CannotCompile):  # a machine without a compiler goes other ways, as its users do
        native(name)
whole_vectors()
os.fsync = lambda _: None  # as in tests/conftest.py
without_bf16()
