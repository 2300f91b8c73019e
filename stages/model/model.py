"""The acoustic model as a PyTorch module, with the reference's structure and state-dict names.

Two convolutions halve the feature columns twice and the rows once; four layers follow, each of two LSTMs without
bias (one forward in time, one on the time-flipped input, its output flipped back); BatchNorm and a linear layer
without bias give 41 classes, as log-probabilities. Works with PyTorch 1.8.0 and later, on any number of rows.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from stages.shared import architecture


class ConvBlock(nn.Module):
    """Convolution 3x3 with padding 1, BatchNorm, ReLU: (B, inputs, rows, columns) -> (B, outputs, rows', columns')."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1)
        self.batch_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.batch_norm(self.conv(x)))


class RecurrentLayer(nn.Module):
    """BatchNorm (but in the first layer), then a forward and a backward LSTM: (T, B, inputs) -> (T, B, 2 hidden)."""

    def __init__(self, inputs: int, hidden: int, *, normalise: bool) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(inputs) if normalise else None
        self.rnn = nn.LSTM(inputs, hidden, bias=False)
        self.rnn_w = nn.LSTM(inputs, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.batch_norm is not None:
            # BatchNorm1d wants (N, C, L); the statistics go over time and batch alike.
            x = self.batch_norm(x.permute(1, 2, 0)).permute(2, 0, 1)
        forward, _ = self.rnn(x)
        backward, _ = self.rnn_w(torch.flip(x, [0]))
        return torch.cat((forward, torch.flip(backward, [0])), dim=2)


class AcousticModel(nn.Module):
    """(B, rows, 243) float32 features -> (ceil(rows / 2), B, 41) float32 log-probabilities.

    Args:
        dropout: probability of dropping a value after each recurrent layer while training; evaluation ignores it.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        channels, hidden = architecture.CHANNELS, architecture.HIDDEN
        self.conv = nn.ModuleList([ConvBlock(1, channels, (1, 2)), ConvBlock(channels, channels, (2, 2))])
        widths = [channels * architecture.CONV_FEATURES] + [2 * hidden] * (architecture.LAYERS - 1)
        self.rnns = nn.ModuleList(
            [RecurrentLayer(width, hidden, normalise=index > 0) for index, width in enumerate(widths)]
        )
        self.fc = nn.Sequential(nn.BatchNorm1d(2 * hidden), nn.Linear(2 * hidden, architecture.CLASSES, bias=False))
        self._dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unsqueeze(1)
        for block in self.conv:
            x = block(x)
        # (B, channels, T, columns) -> (T, B, channels * columns), the channel being the slower index.
        x = x.permute(2, 0, 1, 3).flatten(2)
        for layer in self.rnns:
            x = layer(x)
            if self.training and self._dropout > 0.0:
                x = functional.dropout(x, self._dropout)
        normalise, linear = self.fc
        x = linear(normalise(x.permute(1, 2, 0)).permute(2, 0, 1))
        return functional.log_softmax(x, dim=2)


def build_model(dropout: float = 0.0) -> AcousticModel:
    """A new `AcousticModel` with PyTorch's own initial weights, in training mode."""
    return AcousticModel(dropout)
