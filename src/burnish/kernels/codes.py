"""The numbers by which the C files of this room know dtypes and activations (`vectors.h`)."""

from __future__ import annotations

import torch

TYPES = {torch.float32: 0, torch.bfloat16: 1}
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
