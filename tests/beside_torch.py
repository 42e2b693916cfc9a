"""What the tests beside PyTorch share."""

import contextlib
import importlib.util


def allow_no_torchvision() -> None:
    """transformers and diffusers look up two operators of torchvision when they are imported, whether it is there or
    not."""
    import torch

    if importlib.util.find_spec("torchvision"):
        return
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # It was defined before.
            torch.library.define(f"torchvision::{operator}", "(Tensor x) -> Tensor")
