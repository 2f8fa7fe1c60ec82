"""Which operations carry a dual number on, by PyTorch's own formula or by a rule.

Every operation that a model may have behind a responding layer is here, so that a version of
PyTorch that loses one is seen. The tangent is checked by central differences, its gradient by the
plain gradient: since ẏ = Jẋ is linear in ẋ, the gradient of ⟨v, ẏ⟩ in ẋ is Jᵀv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import re
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.linearize._linearize import _dual_level, at_response
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.response._delta import Delta, Deltas


LABELS = torch.tensor([0, 2, 1])
SIGNS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
ROWS = torch.tensor([[0, 2], [1, 1]])


class Case(NamedTuple):
    """A function of tensors, drawn normally of these shapes; or uniformly between two bounds."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    bounds: tuple[float, float] | None = None


def case(function: Callable[..., Any], *shapes: tuple[int, ...], bounds: Any = None) -> Case:
    return Case(function, shapes, bounds)


def unary(names: str, *shapes: tuple[int, ...], of: Any = F, bounds: Any = None) -> dict[str, Case]:
    return {name: case(getattr(of, name), *shapes, bounds=bounds) for name in names.split()}


V, M, S, I, C3 = (7,), (3, 4), (3, 2, 6), (3, 2, 6, 6), (3, 2, 4, 4, 4)  # noqa: E741

ACTIVATIONS: dict[str, Case] = {
    **unary(
        """
        celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu
        logsigmoid mish relu relu6 selu sigmoid silu softplus softshrink
        softsign tanh tanhshrink rrelu normalize
        """,
        M,
    ),
    "gelu by tanh": case(lambda x: F.gelu(x, approximate="tanh"), M),
    "glu along the first axis": case(lambda x: F.glu(x, 0), (4, 3)),
    "threshold": case(lambda x: F.threshold(x, 0.1, -1.0), M),
    "prelu": case(F.prelu, (3, 4, 5), (4,)),
    "rrelu in training": case(lambda x: _seeded(F.rrelu, x, training=True), M),
    "gumbel softmax": case(lambda x: _seeded(F.gumbel_softmax, x), M),
    "log_softmax": case(lambda x: F.log_softmax(x, -1), M),
    "softmax": case(lambda x: F.softmax(x, -1), M),
    "softmin": case(lambda x: F.softmin(x, -1), M),
    "softmax along the first axis": case(lambda x: torch.softmax(x, 0), M),
    "relu in place": case(lambda x: F.relu(x.clone(), inplace=True), M),
    "silu in place": case(lambda x: F.silu(x.clone(), inplace=True), M),
    "elu in place": case(lambda x: F.elu(x.clone(), inplace=True), M),
    "leaky relu in place": case(lambda x: F.leaky_relu(x.clone(), 0.1, inplace=True), M),
    "hardtanh in place": case(lambda x: F.hardtanh(x.clone(), inplace=True), M),
}


def _seeded(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    torch.manual_seed(1)
    return function(*args, **kwargs)


POOLS: dict[str, Case] = {
    "avg_pool1d": case(lambda x: F.avg_pool1d(x, 2), S),
    "avg_pool2d": case(lambda x: F.avg_pool2d(x, 3, 2, 1), I),
    "avg_pool2d that does not count its padding": case(
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), I
    ),
    "avg_pool3d": case(lambda x: F.avg_pool3d(x, 2), C3),
    "max_pool1d": case(lambda x: F.max_pool1d(x, 2), S),
    "max_pool2d": case(lambda x: F.max_pool2d(x, 2), I),
    "max_pool2d, overlapping": case(lambda x: F.max_pool2d(x, 3, 2, 1), I),
    "max_pool2d with indices": case(lambda x: F.max_pool2d(x, 2, return_indices=True)[0], I),
    "max_pool3d": case(lambda x: F.max_pool3d(x, 2), C3),
    "adaptive_avg_pool1d": case(lambda x: F.adaptive_avg_pool1d(x, 4), S),
    "adaptive_avg_pool2d": case(lambda x: F.adaptive_avg_pool2d(x, (1, 1)), I),
    "adaptive_avg_pool2d to several": case(lambda x: F.adaptive_avg_pool2d(x, (4, 5)), I),
    "adaptive_avg_pool3d": case(lambda x: F.adaptive_avg_pool3d(x, 3), C3),
    "adaptive_max_pool1d": case(lambda x: F.adaptive_max_pool1d(x, 4), S),
    "adaptive_max_pool2d": case(lambda x: F.adaptive_max_pool2d(x, 4), I),
    "adaptive_max_pool3d": case(lambda x: F.adaptive_max_pool3d(x, 3), C3),
    "fractional_max_pool2d": case(lambda x: _seeded(F.fractional_max_pool2d, x, 2, 3), I),
    "fractional_max_pool3d": case(lambda x: _seeded(F.fractional_max_pool3d, x, 2, 2), C3),
    "lp_pool1d": case(lambda x: F.lp_pool1d(x, 3, 2), S, bounds=(0.5, 2)),
    "lp_pool2d": case(lambda x: F.lp_pool2d(x, 2, 2), I),
    "lp_pool3d": case(lambda x: F.lp_pool3d(x, 2, 2), C3),
    "max_unpool1d": case(lambda x: F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), 2), S),
    "max_unpool2d": case(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), I),
    "max_unpool3d": case(lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2), C3),
}
IMAGES: dict[str, Case] = {
    **{
        f"pad, {mode}": case(lambda x, mode=mode: F.pad(x, (1, 2, 0, 1), mode=mode), I)
        for mode in ("constant", "reflect", "replicate", "circular")
    },
    "pad of sequences, reflect": case(lambda x: F.pad(x, (1, 2), mode="reflect"), S),
    "pad of sequences, replicate": case(lambda x: F.pad(x, (1, 2), mode="replicate"), S),
    "pad of volumes, reflect": case(lambda x: F.pad(x, (1, 2, 1, 1, 0, 1), mode="reflect"), C3),
    "pad of volumes, replicate": case(lambda x: F.pad(x, (1, 2, 1, 1, 0, 1), mode="replicate"), C3),
    **{
        f"interpolate, {mode}": case(lambda x, mode=mode: F.interpolate(x, 9, mode=mode), I)
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
    },
    "interpolate, antialias": case(
        lambda x: F.interpolate(x, 4, mode="bilinear", antialias=True), I
    ),
    "interpolate, bicubic antialias": case(
        lambda x: F.interpolate(x, 4, mode="bicubic", antialias=True), I
    ),
    "interpolate of sequences, linear": case(
        lambda x: F.interpolate(x, scale_factor=2, mode="linear"), S
    ),
    "interpolate of sequences, nearest": case(lambda x: F.interpolate(x, 9), S),
    "interpolate of sequences, nearest-exact": case(
        lambda x: F.interpolate(x, 9, mode="nearest-exact"), S
    ),
    "interpolate of volumes, trilinear": case(
        lambda x: F.interpolate(x, 6, mode="trilinear", align_corners=True), C3
    ),
    "interpolate of volumes, nearest": case(lambda x: F.interpolate(x, 6), C3),
    "interpolate of volumes, nearest-exact": case(
        lambda x: F.interpolate(x, 6, mode="nearest-exact"), C3
    ),
    "pixel_shuffle": case(lambda x: F.pixel_shuffle(x, 2), (3, 4, 3, 3)),
    "pixel_unshuffle": case(lambda x: F.pixel_unshuffle(x, 2), I),
    "channel_shuffle": case(lambda x: F.channel_shuffle(x, 2), (3, 4, 3, 3)),
    "unfold": case(lambda x: F.unfold(x, 3, padding=1, stride=2), I),
    "tile": case(lambda x: torch.tile(x, (2, 1)), M),
    "fold": case(lambda x: F.fold(x, (4, 4), 2), (3, 8, 9)),
    "affine_grid": case(lambda t: F.affine_grid(t, [3, 2, 4, 4], align_corners=False), (3, 2, 3)),
    **{
        f"grid_sample, {mode}, {padding}, {aligned}": case(
            lambda x, g, mode=mode, padding=padding, aligned=aligned: F.grid_sample(
                x, g, mode=mode, padding_mode=padding, align_corners=aligned
            ),
            I,
            (3, 4, 5, 2),
        )
        for mode in ("bilinear", "bicubic", "nearest")
        for aligned in (False, True)
        for padding in ("zeros", "border", "reflection")
    },
    "grid_sample of volumes": case(
        lambda x, g: F.grid_sample(x, g, align_corners=False), C3, (3, 2, 3, 4, 3)
    ),
    "spatial transformer": case(
        lambda x, t: F.grid_sample(x, F.affine_grid(t, [3, 2, 4, 4], False), align_corners=False),
        I,
        (3, 2, 3),
    ),
}
LAYERS: dict[str, Case] = {
    "linear": case(F.linear, M, (5, 4), (5,)),
    "bilinear": case(F.bilinear, M, (3, 5), (2, 4, 5), (2,)),
    "conv1d": case(F.conv1d, S, (3, 2, 3)),
    "conv2d": case(F.conv2d, I, (3, 2, 3, 3), (3,)),
    "conv3d": case(F.conv3d, C3, (3, 2, 2, 2, 2)),
    "conv_transpose1d": case(F.conv_transpose1d, S, (2, 3, 3)),
    "conv_transpose2d": case(F.conv_transpose2d, I, (2, 3, 3, 3), (3,)),
    "conv_transpose3d": case(F.conv_transpose3d, C3, (2, 3, 2, 2, 2)),
    "embedding": case(lambda w: F.embedding(ROWS, w), M),
    **{
        f"embedding_bag, {mode}": case(lambda w, mode=mode: F.embedding_bag(ROWS, w, mode=mode), M)
        for mode in ("sum", "mean", "max")
    },
    "embedding_bag, offsets": case(
        lambda w: F.embedding_bag(ROWS.flatten(), w, torch.tensor([0, 1, 1]), mode="mean"), M
    ),
    "embedding_bag, weights": case(
        lambda w, p: F.embedding_bag(ROWS, w, mode="sum", per_sample_weights=p), M, (2, 2)
    ),
    "batch_norm": case(
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), I, (2,), (2,)
    ),
    "batch_norm in evaluation": case(
        lambda x, w, b: F.batch_norm(x, *torch.ones(2, 2).double(), w, b), I, (2,), (2,)
    ),
    "instance_norm": case(lambda x, w, b: F.instance_norm(x, None, None, w, b), I, (2,), (2,)),
    "layer_norm": case(lambda x, w, b: F.layer_norm(x, (4,), w, b), (3, 2, 4), (4,), (4,)),
    "group_norm": case(lambda x, w, b: F.group_norm(x, 2, w, b), (3, 4, 5), (4,), (4,)),
    "rms_norm": case(lambda x, w: F.rms_norm(x, (4,), w), (3, 2, 4), (4,)),
    "local_response_norm": case(lambda x: F.local_response_norm(x, 3), (3, 4, 5)),
    "scaled_dot_product_attention": case(
        F.scaled_dot_product_attention, (3, 2, 4, 5), *[(3, 2, 4, 5)] * 2
    ),
    "multi_head_attention": case(
        lambda x, w, o: F.multi_head_attention_forward(
            x, x, x, 4, 2, w, None, None, None, False, 0.0, o, None
        )[0],
        (5, 3, 4),
        (12, 4),
        (4, 4),
    ),
    "RNN": case(lambda x: _frozen(nn.RNN(4, 3))(x)[0], (5, 3, 4)),
    "GRU": case(lambda x: _frozen(nn.GRU(4, 3))(x)[0], (5, 3, 4)),
    "LSTM": case(lambda x: _frozen(nn.LSTM(4, 3))(x)[0], (5, 3, 4)),
    "GRUCell": case(lambda x: _frozen(nn.GRUCell(4, 3))(x), M),
    "LSTMCell": case(lambda x: _frozen(nn.LSTMCell(4, 3))(x)[0], M),
    "RNNCell": case(lambda x: _frozen(nn.RNNCell(4, 3))(x), M),
    "dropout": case(lambda x: _seeded(F.dropout, x, 0.4), M),
    "dropout1d": case(lambda x: _seeded(F.dropout1d, x, 0.4), S),
    "dropout2d": case(lambda x: _seeded(F.dropout2d, x, 0.4), I),
    "dropout3d": case(lambda x: _seeded(F.dropout3d, x, 0.4), C3),
    "alpha_dropout": case(lambda x: _seeded(F.alpha_dropout, x, 0.4, True), M),
    "feature_alpha_dropout": case(lambda x: _seeded(F.feature_alpha_dropout, x, 0.4, True), S),
}


def _frozen(layer: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter.requires_grad_(False))
    return layer


LOSSES: dict[str, Case] = {
    "binary_cross_entropy": case(
        lambda x: F.binary_cross_entropy(x, torch.eye(3, 4).double()), M, bounds=(0.1, 0.9)
    ),
    "binary_cross_entropy_with_logits": case(
        lambda x: F.binary_cross_entropy_with_logits(x, torch.eye(3, 4).double()), M
    ),
    "cosine_embedding_loss": case(lambda x, y: F.cosine_embedding_loss(x, y, SIGNS), M, M),
    "cosine_similarity": case(F.cosine_similarity, M, M),
    "cross_entropy": case(lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1), M),
    "cross_entropy of chances": case(
        lambda x: F.cross_entropy(x, torch.full((3, 4), 0.25).double()), M
    ),
    "ctc_loss": case(
        lambda x: F.ctc_loss(
            F.log_softmax(x, -1),
            torch.tensor([[1, 2], [3, 1], [2, 2]]),
            torch.tensor([6, 6, 5]),
            torch.tensor([2, 2, 1]),
        ),
        (6, 3, 4),
    ),
    "gaussian_nll_loss": case(
        lambda x, y, v: F.gaussian_nll_loss(x, y, v), M, M, M, bounds=(0.2, 2.0)
    ),
    "hinge_embedding_loss": case(lambda x: F.hinge_embedding_loss(x, SIGNS), (3,)),
    "huber_loss": case(F.huber_loss, M, M),
    "kl_div": case(lambda x, y: F.kl_div(x, y, reduction="sum", log_target=True), M, M),
    "l1_loss": case(F.l1_loss, M, M),
    "margin_ranking_loss": case(lambda x, y: F.margin_ranking_loss(x, y, SIGNS), (3,), (3,)),
    "mse_loss": case(F.mse_loss, M, M),
    "multi_margin_loss": case(lambda x: F.multi_margin_loss(x, LABELS), M),
    "multilabel_margin_loss": case(
        lambda x: F.multilabel_margin_loss(x, torch.tensor([[0, 2, -1, 0]] * 3)), M
    ),
    "multilabel_soft_margin_loss": case(
        lambda x: F.multilabel_soft_margin_loss(x, torch.eye(3, 4).double()), M
    ),
    "nll_loss": case(lambda x: F.nll_loss(x, LABELS), M),
    "nll_loss of images": case(lambda x: F.nll_loss(x, torch.ones(3, 6, 6).long()), I),
    "poisson_nll_loss": case(lambda x: F.poisson_nll_loss(x, torch.ones(3, 4)), M),
    "smooth_l1_loss": case(F.smooth_l1_loss, M, M),
    "soft_margin_loss": case(lambda x: F.soft_margin_loss(x, SIGNS[:, None].expand(3, 4)), M),
    "triplet_margin_loss": case(F.triplet_margin_loss, M, M, M),
    "triplet_margin_with_distance_loss": case(F.triplet_margin_with_distance_loss, M, M, M),
    "pairwise_distance": case(F.pairwise_distance, M, M),
    "pdist": case(F.pdist, M),
    **{
        f"cdist, p={p}": case(lambda x, y, p=p: torch.cdist(x, y, p), M, (5, 4))
        for p in (0.5, 1.0, 1.5, 2.0, 3.0, float("inf"))
    },
    "cdist of batches": case(torch.cdist, (2, 3, 4), (2, 5, 4)),
    "cdist by products": case(
        lambda x, y: torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist"), M, (5, 4)
    ),
}
TENSORS: dict[str, Case] = {
    **unary(
        """
        abs amax amin angle arctan asinh atan clone cos cosh diff erf exp exp2 expm1 flatten fliplr
        flipud frac max mean median min neg nan_to_num pinverse positive prod ravel relu sigmoid
        sin sinc sinh sort square squeeze std sum t tan tanh tril triu unbind var
        """,
        M,
        of=torch,
    ),
    **unary(
        """
        acos arccos asin arcsin arcsinh arctanh atanh digamma erfc erfinv i0 lgamma log log10 log1p
        log2 logit reciprocal rsqrt sqrt
        """,
        M,
        of=torch,
        bounds=(0.1, 0.9),
    ),
    **unary(
        """
        add sub mul div atan2 fmod remainder maximum minimum fmax fmin hypot logaddexp logaddexp2
        pow dist xlogy copysign inner
        """,
        M,
        M,
        of=torch,
        bounds=(0.2, 2),
    ),
    **{
        f"{name} along an axis": case(lambda x, name=name: getattr(torch, name)(x, 1), M)
        for name in """
        cumsum cummax cummin cumprod logcumsumexp logsumexp log_softmax softmax median mode var std
        var_mean std_mean amax amin prod sum norm sort topk kthvalue unsqueeze unbind chunk roll
        split nanmean nansum
        """.split()
    },
    "acosh": case(torch.acosh, M, bounds=(1.5, 3)),
    "add of numbers": case(lambda x: 1 - (x + 2) * 3 / 4, M),
    "powers": case(lambda x: x**2 + 2**x, M),
    "matmul": case(torch.matmul, (3, 2, 4), (4, 5)),
    "mm": case(torch.mm, M, (4, 5)),
    "bmm": case(torch.bmm, (3, 2, 4), (3, 4, 5)),
    "mv": case(torch.mv, M, (4,)),
    "dot": case(torch.dot, (4,), (4,)),
    "outer": case(torch.outer, (4,), (3,)),
    "cross": case(lambda x, y: torch.cross(x, y, 1), (4, 3), (4, 3)),
    "kron": case(torch.kron, (2, 3), (2, 2)),
    "einsum": case(lambda x, y: torch.einsum("bij,bjk->bik", x, y), (3, 2, 4), (3, 4, 5)),
    "tensordot": case(lambda x, y: torch.tensordot(x, y, 1), M, (4, 5)),
    "addmm": case(torch.addmm, (3, 5), M, (4, 5)),
    "baddbmm": case(torch.baddbmm, (3, 2, 5), (3, 2, 4), (3, 4, 5)),
    "addcmul": case(torch.addcmul, M, M, M),
    "addcdiv": case(torch.addcdiv, M, M, M, bounds=(0.3, 2)),
    "lerp": case(torch.lerp, M, M, M),
    "where": case(lambda x, y: torch.where(x > 0, x, y), M, M),
    "cat": case(lambda x, y: torch.cat([x, y], 1), M, M),
    "stack": case(lambda x, y: torch.stack([x, y]), M, M),
    "hstack": case(lambda x, y: torch.hstack([x, y]), M, M),
    "clamp": case(lambda x: x.clamp(-0.5, 0.5), M),
    "clamp by tensors": case(torch.clamp, M, M),
    "masked_fill": case(lambda x: x.masked_fill(torch.eye(3, 4).bool(), 2.0), M),
    "masked_select": case(lambda x: x.masked_select(torch.eye(3, 4).bool()), M),
    "masked_scatter": case(lambda x, y: x.masked_scatter(torch.eye(3, 4).bool(), y), M, M),
    "gather": case(lambda x: x.gather(1, LABELS[:, None]), M),
    "scatter": case(lambda x, y: x.scatter(1, LABELS[:, None], y), M, (3, 1)),
    "scatter_add": case(lambda x, y: x.scatter_add(1, LABELS[:, None], y), M, (3, 1)),
    "scatter_reduce": case(
        lambda x, y: x.scatter_reduce(1, LABELS[:, None], y, reduce="amax"), M, (3, 1)
    ),
    "index_select": case(lambda x: x.index_select(0, LABELS), M),
    "index_add": case(lambda x, y: x.index_add(0, LABELS, y), M, M),
    "index_copy": case(lambda x, y: x.index_copy(0, LABELS, y), M, M),
    "index_fill": case(lambda x: x.index_fill(0, LABELS[:2], 1.0), M),
    "index_put": case(lambda x, y: x.index_put((LABELS,), y, accumulate=True), M, M),
    "indexing": case(lambda x: x[:, 1:] * x[LABELS, :1] + x[..., -1:], M),
    "assignment": case(lambda x, y: _assigned(x, y), M, (4,)),
    "take": case(lambda x: x.take(LABELS), M),
    "take_along_dim": case(lambda x: x.take_along_dim(LABELS[:, None], 1), M),
    "narrow": case(lambda x: x.narrow(1, 1, 2), M),
    "select": case(lambda x: x.select(1, 2), M),
    "diagonal": case(lambda x: x.diagonal(), M),
    "diag_embed": case(torch.diag_embed, M),
    "diag": case(torch.diag, V),
    "trace": case(torch.trace, (3, 3)),
    "reshape": case(lambda x: x.reshape(2, 6), M),
    "view": case(lambda x: x.view(2, -1), M),
    "permute": case(lambda x: x.permute(2, 0, 1), S),
    "transpose": case(lambda x: x.transpose(1, 2), S),
    "movedim": case(lambda x: x.movedim(0, 2), S),
    "swapaxes": case(lambda x: x.swapaxes(0, 2), S),
    "expand": case(lambda x: x[:, None].expand(3, 2, 4), M),
    "repeat": case(lambda x: x.repeat(2, 1), M),
    "repeat_interleave": case(lambda x: x.repeat_interleave(2, 0), M),
    "flip": case(lambda x: x.flip(0), M),
    "roll": case(lambda x: x.roll(1, 0), M),
    "rot90": case(torch.rot90, M),
    "unflatten": case(lambda x: x.unflatten(1, (2, 2)), M),
    "Tensor.unfold": case(lambda x: x.unfold(1, 2, 1), M),
    "as_strided": case(lambda x: x.as_strided((2, 3), (1, 2)), M),
    "meshgrid": case(lambda x, y: torch.meshgrid(x, y, indexing="ij"), (3,), (4,)),
    "broadcast_tensors": case(lambda x, y: torch.broadcast_tensors(x, y), M, (4,)),
    "contiguous": case(lambda x: x.t().contiguous(), M),
    "to": case(lambda x: x.to(torch.float64), M),
    "in place": case(lambda x, y: x.clone().add_(y).mul_(2).div_(y), M, M, bounds=(0.3, 2)),
    "norm": case(torch.norm, M),
    "vector_norm": case(lambda x: torch.linalg.vector_norm(x, 3, 1), M),
    "matrix_norm": case(torch.linalg.matrix_norm, M),
    "norm of complex numbers": case(lambda x, y: torch.complex(x, y).norm(dim=1), M, M),
    "norm in a given precision": case(lambda x: torch.norm(x, dim=0, dtype=torch.float64), M),
    "renorm": case(lambda x: torch.renorm(x, 2, 0, 0.5), M),
    "det": case(torch.linalg.det, (3, 3)),
    "slogdet": case(lambda x: torch.linalg.slogdet(x)[1], (3, 3)),
    "inv": case(torch.linalg.inv, (3, 3)),
    "solve": case(torch.linalg.solve, (3, 3), (3, 2)),
    "cholesky": case(lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(3)), (3, 3)),
    "solve_triangular": case(
        lambda x, y: torch.linalg.solve_triangular(x.tril() + torch.eye(3), y, upper=False),
        (3, 3),
        (3, 2),
    ),
    "qr": case(lambda x: torch.linalg.qr(x)[1], (4, 3)),
    "svd": case(torch.linalg.svdvals, (4, 3)),
    "eigh": case(lambda x: torch.linalg.eigvalsh(x + x.mT), (3, 3)),
    "matrix_exp": case(torch.matrix_exp, (3, 3)),
    "fft": case(lambda x: torch.fft.rfft(x).abs(), M),
    "fft2 and back": case(lambda x: torch.fft.irfft2(torch.fft.rfft2(x) ** 2, s=(4, 4)), (3, 4, 4)),
    "stft": case(
        lambda x: torch.stft(
            x, 4, window=torch.ones(4).double(), return_complex=True, pad_mode="constant"
        ).abs(),
        (2, 16),
    ),
    "complex": case(lambda x, y: torch.view_as_real(torch.complex(x, y) ** 2), M, M),
    "polar": case(lambda x, y: torch.polar(x, y).real, M, M, bounds=(0.2, 1)),
    "erfcx": case(torch.special.erfcx, M),
    "log_ndtr": case(torch.special.log_ndtr, M),
    "ndtr": case(torch.special.ndtr, M),
    "xlog1py": case(torch.special.xlog1py, M, M, bounds=(0.2, 2)),
    "cov": case(torch.cov, M),
    "corrcoef": case(torch.corrcoef, M),
    "trapezoid": case(torch.trapezoid, M),
    "cumulative_trapezoid": case(torch.cumulative_trapezoid, M),
    "bucket-like selection": case(lambda x: x * (x > 0), M),
    "bernoulli straight-through": case(lambda x: x + (x > 0).double() - x.detach() * 0, M),
    "quantile": case(lambda x: torch.quantile(x, 0.3, 1), M),
    "vmap": case(lambda x: torch.vmap(torch.sin)(x), M),
}


def _assigned(x: Tensor, y: Tensor) -> Tensor:
    x = x.clone()
    x[1] = y
    x[:, 0] *= 2
    return x


CASES = {
    f"{family}: {name}": one
    for family, of in {
        "activation": ACTIVATIONS,
        "pool": POOLS,
        "image": IMAGES,
        "layer": LAYERS,
        "loss": LOSSES,
        "tensor": TENSORS,
    }.items()
    for name, one in of.items()
}


def draws(one: Case) -> list[Tensor]:
    torch.manual_seed(0)
    if one.bounds is None:
        return [torch.randn(shape, dtype=torch.float64) for shape in one.shapes]
    low, high = one.bounds
    return [low + (high - low) * torch.rand(shape, dtype=torch.float64) for shape in one.shapes]


def results(one: Case, inputs: list[Tensor]) -> list[Tensor]:
    output = one.function(*inputs)
    outputs = list(output) if isinstance(output, (tuple, list)) else [output]
    return [t for t in outputs if isinstance(t, Tensor) and t.is_floating_point()]


def by_differences(one: Case, inputs: list[Tensor], changes: list[Tensor]) -> list[Tensor]:
    step = 1e-6
    ahead, behind = (
        results(one, [x + s * step * c for x, c in zip(inputs, changes, strict=True)])
        for s in (1, -1)
    )
    return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


def by_engine(
    one: Case, inputs: list[Tensor], changes: list[Tensor | None]
) -> tuple[list[Tensor], list[Tensor]]:
    """Primals, and tangents, at dual numbers where a change is given."""
    mode = RespondingValidation({}, Deltas({}, BatchLayout(3)))
    with _dual_level():
        duals = [
            x if c is None else forward_ad.make_dual(x, c)
            for x, c in zip(inputs, changes, strict=True)
        ]
        with mode:
            output = results(one, duals)
        pairs = [forward_ad.unpack_dual(t) for t in output]
        return (
            [pair.primal for pair in pairs],
            [torch.zeros_like(p.primal) if p.tangent is None else p.tangent for p in pairs],
        )


def subsets(one: Case) -> Iterator[tuple[bool, ...]]:
    """Which inputs are dual numbers: all, and each alone."""
    count = len(one.shapes)
    yield (True,) * count
    if count > 1:
        for index in range(count):
            yield tuple(i == index for i in range(count))


def gradients(outputs: list[Tensor], inputs: list[Tensor], seeds: list[Tensor]) -> list[Tensor]:
    """Of ⟨v, y⟩, zero where y does not depend on an input."""
    pairs = [(y, v) for y, v in zip(outputs, seeds, strict=True) if y.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(
        [y for y, _ in pairs],
        inputs,
        [v for _, v in pairs],
        allow_unused=True,
        materialize_grads=True,
    )
    return list(found)


@pytest.mark.parametrize("name", CASES)
def test_a_dual_number_passes(name: str) -> None:
    one = CASES[name]
    for chosen in subsets(one):
        inputs = draws(one)
        changes = [torch.randn_like(x) * c for x, c in zip(inputs, chosen, strict=True)]
        own = [
            change.clone().requires_grad_() if c else None
            for change, c in zip(changes, chosen, strict=True)
        ]
        primals, tangents = by_engine(one, inputs, own)
        leaves = [x.clone().requires_grad_(c) for x, c in zip(inputs, chosen, strict=True)]
        plain = results(one, leaves)
        for primal, value in zip(primals, plain, strict=True):
            torch.testing.assert_close(primal, value.detach(), rtol=1e-10, atol=1e-12)
        for tangent, change in zip(tangents, by_differences(one, inputs, changes), strict=True):
            torch.testing.assert_close(tangent, change, rtol=1e-6, atol=1e-7)
        seeds = [torch.randn_like(y) for y in plain]
        mine = gradients(tangents, [c for c in own if c is not None], seeds)
        theirs = gradients(plain, [x for x in leaves if x.requires_grad], seeds)
        for of_tangent, of_value in zip(mine, theirs, strict=True):
            torch.testing.assert_close(of_tangent, of_value, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_a_plain_number_passes_as_ever(name: str) -> None:
    one = CASES[name]
    inputs = draws(one)
    primals, tangents = by_engine(one, inputs, [None] * len(inputs))
    for primal, value in zip(primals, results(one, inputs), strict=True):
        torch.testing.assert_close(primal, value, rtol=1e-13, atol=1e-14)
    assert not any(tangent.any() for tangent in tangents)


# What PyTorch has no derivative of that can be differentiated twice more, or no right one.
_WITHOUT_GRAPH = """
    activation: hardsigmoid / loss: ctc_loss / loss: multi_margin_loss
    loss: multilabel_margin_loss / loss: cdist, p=2.0 / loss: cdist of batches
    tensor: copysign / tensor: logcumsumexp along an axis
"""


WITHOUT_GRAPH = re.split(r" / |\n +", _WITHOUT_GRAPH.strip())


@pytest.mark.parametrize("name", [name for name in CASES if name not in WITHOUT_GRAPH])
def test_gradients_in_a_primal(name: str) -> None:
    """A loss may take those in the input, and those of a penalty on them."""
    one = CASES[name]
    inputs = draws(one)
    leaves = [t.requires_grad_() for t in (*inputs, *map(torch.randn_like, inputs))]

    def prediction(*tensors: Tensor) -> tuple[Tensor, ...]:
        x, changes = tensors[: len(inputs)], tensors[len(inputs) :]
        primals, tangents = by_engine(one, list(x), list(changes))
        return (*primals, *tangents)

    assert torch.autograd.gradcheck(prediction, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(prediction, leaves, fast_mode=True)


NORMS: dict[str, Callable[[Tensor], Any]] = {
    **{f"norm, p={p}": lambda x, p=p: x.norm(p=p, dim=1) for p in (1, 1.5, 2, 3, float("inf"))},
    "norm of all": lambda x: torch.norm(x[0]),
    "norm, kept": lambda x: torch.norm(x, 2, 1, True),
    "linalg.norm": lambda x: torch.linalg.norm(x, dim=1),
    "linalg.norm by other names": lambda x: torch.linalg.norm(x, ord=3, axis=1, keepdims=True),
    "vector_norm": lambda x: torch.linalg.vector_norm(x=x, ord=2, dim=(1,)),
    "matrix_norm": lambda x: torch.linalg.matrix_norm(x[:, None]),
    "dist": lambda x: torch.dist(x[0], torch.zeros_like(x[0])),
    "pdist": lambda x: F.pdist(torch.cat([x, x])),
    "cdist": lambda x: torch.cdist(x, x, 3.0),
    "normalize": F.normalize,
    "normalize, p=3": lambda x: F.normalize(x, 3.0, -1, 1e-6),
    "cosine_similarity": lambda x: F.cosine_similarity(x, torch.ones_like(x)),
    "cosine_similarity of all pairs": lambda x: F.cosine_similarity(x[:, None], x[None], -1),
    "std": lambda x: x.std(1, keepdim=True),
    "std of all": lambda x: torch.std(x[0]),
    "std, biased": lambda x: torch.std(x[0], False),
    "std, biased, along an axis": lambda x: x.std(axis=1, unbiased=False),
    "std, corrected": lambda x: torch.std(x, dim=(1,), correction=2),
    "std_mean": lambda x: torch.std_mean(x, 1),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_has_a_finite_slope_at_a_row_of_zeros(name: str) -> None:
    """Behind a ReLU and a dropout: PyTorch's own tangent is 0 there, and the gradient of it NaN."""
    x, x_change = torch.rand(2, 3, 4, dtype=torch.float64) + 0.5
    x[0] = 0
    one = Case(NORMS[name], (x.shape,))
    change = x_change.clone().requires_grad_()
    primals, tangents = by_engine(one, [x], [change])
    leaf = x.clone().requires_grad_()
    plain = results(one, [leaf])
    seeds = [torch.randn_like(y) for y in plain]
    (mine,), (theirs,) = gradients(tangents, [change], seeds), gradients(plain, [leaf], seeds)
    assert theirs.isfinite().all()
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
    for primal, value in zip(primals, plain, strict=True):
        torch.testing.assert_close(primal, value.detach(), rtol=1e-10, atol=1e-12)
    for tangent, value in zip(tangents, plain, strict=True):
        assert tangent.shape == value.shape
    whole = sum((t * v).sum() for t, v in zip(tangents, seeds, strict=True))
    torch.testing.assert_close(whole.detach(), (theirs * x_change).sum())


@pytest.mark.parametrize("name", [name for name in NORMS if "dist" not in name])
def test_the_tangent_of_a_norm_is_pytorchs(name: str) -> None:
    x, change = torch.randn(2, 3, 4, dtype=torch.float64)
    one = Case(NORMS[name], (x.shape,))
    mine = by_engine(one, [x], [change])[1]
    theirs = torch.func.jvp(lambda x: tuple(results(one, [x])), (x,), (change,))[1]
    for tangent, reference in zip(mine, theirs, strict=True):
        torch.testing.assert_close(tangent, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["ctc_loss", "multi_margin_loss", "multilabel_margin_loss"])
def test_gradients_in_a_primal_that_torch_lacks(name: str) -> None:
    """They are refused, rather than left out of the sum."""
    one = LOSSES[name]
    (x,) = draws(one)
    change = torch.randn_like(x)
    _, (tangent,) = by_engine(one, [x.requires_grad_()], [change])
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(tangent, x)
    with torch.no_grad():
        _, (tangent,) = by_engine(one, [x], [change])
    assert not tangent.requires_grad


def test_a_function_without_a_derivative_is_named_as_users_write_it() -> None:
    mode = RespondingValidation({}, Deltas({}, BatchLayout(3)))
    x, change = torch.randn(3, 4), torch.randn(3, 4)
    with _dual_level(), mode:
        lengths = torch.tensor([1, 2])
        sums = torch.segment_reduce(forward_ad.make_dual(x, change), "sum", lengths=lengths)
        tangent = forward_ad.unpack_dual(sums).tangent
    assert mode.centred == {"torch.segment_reduce"}
    torch.testing.assert_close(tangent, torch.stack([change[0], change[1:].sum(0)]))


class Loss(nn.Module):
    """A model that ends in its loss, one number for each example."""

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.loss = nn.Linear(4, 5), loss

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self.layer(x))


LENGTHS = torch.tensor([6, 6, 5]), torch.tensor([2, 2, 1])
ENDS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "ctc_loss": (
        (6, 3, 4),
        lambda x: F.ctc_loss(
            x.log_softmax(-1), torch.tensor([[1, 2], [3, 1], [2, 2]]), *LENGTHS, reduction="none"
        ),
    ),
    "multi_margin_loss": ((3, 4), lambda x: F.multi_margin_loss(x, LABELS, reduction="none")),
    "multilabel_margin_loss": (
        (3, 4),
        lambda x: F.multilabel_margin_loss(
            x, torch.tensor([[0, 2, -1, 0, 0]] * 3), reduction="none"
        ),
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_loss_that_ends_the_model_is_applied_to_the_linearised_prediction(name: str) -> None:
    shape, loss = ENDS[name]
    model, x = Loss(loss), torch.randn(shape)
    gate, direction = torch.randn(3, 5), torch.randn(5, 4)
    deltas = Deltas({id(model.layer.weight): [Delta(gate, direction)]}, BatchLayout(3))
    with at_response(model, RespondingValidation({}, deltas)):
        prediction = model(x)
    with torch.no_grad():
        expected = loss(model.layer(x) + gate * F.linear(x, direction))
    torch.testing.assert_close(prediction, expected)


@pytest.mark.parametrize(
    "norm",
    [
        lambda x, w, b: F.layer_norm(x, (4,), w, b),
        lambda x, w, b: F.group_norm(x.mT, 2, w, b).mT,
        lambda x, w, b: F.batch_norm(x.mT, None, None, w, b, training=True).mT,
    ],
)
def test_a_norm_whose_scale_is_mixed_of_parameters_moves_alike(norm: Any) -> None:
    x, w, w_change = torch.randn(3, 5, 4), torch.randn(4), torch.randn(4)
    b = nn.Parameter(torch.randn(4), requires_grad=False)
    gate, direction = torch.randn(3, 4), torch.randn(4)
    deltas = Deltas({id(b): [Delta(gate, direction)]}, BatchLayout(3))
    with _dual_level(), RespondingValidation({}, deltas):
        output, change = forward_ad.unpack_dual(norm(x, forward_ad.make_dual(w, w_change), b))
    torch.testing.assert_close(output, norm(x, w, b))
    normalised = norm(x, torch.ones(4), torch.zeros(4))
    expected = normalised * w_change + gate.mean(0) * direction
    torch.testing.assert_close(change, expected)
