"""Imported by the server that tests fork from: what a process does once, such as compiling the kernels, is done here."""

import contextlib

from burnish.kernels.document_attention import whole_vectors
from burnish.kernels.native import CannotCompile, native

for name in ("attend", "decode"):
    with contextlib.suppress(CannotCompile):  # a machine without a compiler goes other ways, as its users do
        native(name)
whole_vectors()
