"""Checks of the shape, dtype and range of images."""

from __future__ import annotations

from torch import Tensor


# Interpolated images may be outside [0, 1] by a rounding error.
_TOLERANCE = 1e-3


def require_floating(owner: str, input: Tensor) -> None:
    """Check that a tensor is floating point.

    Args:
        owner: The function or module that takes the tensor, for the message.
        input: The tensor.

    Raises:
        ValueError: If the tensor is not floating point.
    """
    if not input.is_floating_point():
        raise ValueError(
            f"{owner} takes floating-point numbers, not {input.dtype}: turn byte images into "
            "numbers in [0, 1] first, images.float() / 255."
        )


def require_images(owner: str, images: Tensor) -> None:
    """Check that images are a floating-point tensor of shape (B, C, H, W).

    Raises:
        ValueError: If they have another shape or dtype.
    """
    if images.ndim != 4:
        raise ValueError(
            f"{owner} takes images of shape (B, C, H, W), not {tuple(images.shape)}: put "
            "nn.Unflatten(1, (C, H, W)) before it if they are flat, or unsqueeze(1) if they lack "
            "the axis of channels."
        )
    require_floating(owner, images)


def require_colors(owner: str, images: Tensor) -> None:
    """Check that images have three channels: red, green and blue.

    Raises:
        ValueError: If they have another number of channels.
    """
    if images.shape[1] != 3:
        raise ValueError(
            f"{owner} changes saturation or hue, so it takes images of 3 channels (red, green, "
            f"blue), not {images.shape[1]}: leave these two out for others."
        )


def require_unit_range(owner: str, images: Tensor) -> None:
    """Check that the values of images are in [0, 1].

    Raises:
        ValueError: If a value is outside.
    """
    low, high = (end.item() for end in images.aminmax())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(
            f"{owner} takes images in [0, 1], not in [{low:g}, {high:g}]: divide byte values by "
            "255, and normalise by mean and standard deviation after it, not before."
        )
