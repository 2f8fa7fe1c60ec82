"""An MLP-Mixer with dropout in each of its MLPs."""

from __future__ import annotations

from torch import Tensor, nn

from comparisons.networks._sizes import Rates, checked


class MLPMixer(nn.Module):
    """Blocks that mix patches, then channels, each by an MLP (Tolstikhin et al., 2021).

    Args:
        rates: Dropout rates, in the order of :meth:`rate_names`: in each block's two MLPs.
        size: Height and width of an image.
        patch: Height and width of a patch; it divides ``size``.
        channels: Of an image.
        classes: Outputs.
        units: Channels of a patch.
        blocks: Number of blocks.
    """

    def __init__(
        self,
        rates: Rates,
        *,
        size: int = 32,
        patch: int = 4,
        channels: int = 3,
        classes: int = 10,
        units: int = 128,
        blocks: int = 4,
    ) -> None:
        super().__init__()
        rates = checked(rates, self.rate_names(blocks))
        patches = (size // patch) ** 2
        self.patches = nn.Conv2d(channels, units, patch, stride=patch)
        self.blocks = nn.Sequential(
            *(
                _Block(patches, units, of_patches, of_channels)
                for of_patches, of_channels in zip(rates[::2], rates[1::2], strict=True)
            )
        )
        self.norm = nn.LayerNorm(units)
        self.output = nn.Linear(units, classes)

    @staticmethod
    def rate_names(blocks: int = 4) -> tuple[str, ...]:
        """Return the names of the dropout rates, in their order."""
        return tuple(
            f"{part}_dropout_{block}"
            for block in range(1, blocks + 1)
            for part in ("patch", "channel")
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, classes), of images (B, channels, size, size)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(x))
        logits: Tensor = self.output(x.mean(1))
        return logits


class _Block(nn.Module):
    """y = x + mlp(norm(x)ᵀ)ᵀ; then y + mlp(norm(y))."""

    def __init__(self, patches: int, units: int, of_patches: float, of_channels: float) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(units), nn.LayerNorm(units)
        self.of_patches = _mlp(patches, units // 2, of_patches)
        self.of_channels = _mlp(units, 4 * units, of_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.of_patches(self.norm_1(x).transpose(1, 2)).transpose(1, 2)
        y: Tensor = x + self.of_channels(self.norm_2(x))
        return y


def _mlp(units: int, hidden: int, rate: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(units, hidden), nn.GELU(), nn.Dropout(rate), nn.Linear(hidden, units)
    )
