"""The operators behind the layers: a product with keyed noise, which is its own derivative.

`masked(x, key, p)` is linear in x, so its gradient is `masked(grad, key, p)`, and so is the gradient of that: backward
draws the bits again from the key and stores nothing.

The operators that take the next key are tagged as random and draw the very keys that eager code does. The compiler's
elimination of common subexpressions knows torch's own random operators only, by name, and would merge two draws into
one: each call that is traced therefore carries a number of its own. Compiled checkpointing looks in the arguments
for the device whose generator it must restore: it is always the CPU. In compiled code a call costs more than a small
tensor's dropout; `masked_next` therefore draws the key and applies the mask in one.

A ReLU before a dropout leaves its output to nobody else, so the compiler keeps the output's sign for backward, as
booleans. Without AVX-512 it writes those one by one, which takes as long as the layer's matrix product. `masked`
therefore takes what a ReLU gave along into backward (`behind`, which no kernel reads): what eager code keeps is kept,
and the sign is taken from it.

They are registered one level below `torch.library.custom_op`, whose wrapper takes longer than a small tensor's dropout.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad

from allmasks.nn import keys
from allmasks.nn.geometry import block_law, blocks_kept
from allmasks.nn.law import alpha_law
from allmasks.nn.multiply import gaussian_multiply, mask_multiply

__all__ = [
    "CPU",
    "at_once",
    "call_number",
    "check_writable",
    "dual",
    "in_transform",
    "key_tensor",
    "product",
    "times",
    "wide",
]

_library = torch.library.Library("allmasks", "DEF")
_RANDOM = (torch.Tag.nondeterministic_seeded, torch.Tag.pt2_compliant_tag)
_PURE = (torch.Tag.pt2_compliant_tag,)
_library.define("draw_key(int call, *, Device device) -> Tensor", tags=_RANDOM)
_library.define("seeded_key(int seed, int call, *, Device device) -> Tensor", tags=_RANDOM)
_library.define("masked(Tensor x, Tensor key, float p, Tensor? units=None, Tensor? behind=None) -> Tensor", tags=_PURE)
_library.define(
    "masked_next(Tensor x, int? seed, int call, float p, Tensor? units=None, *, Device device) -> (Tensor, Tensor)",
    tags=_RANDOM,
)
_library.define("gaussian(Tensor x, Tensor key, float p) -> Tensor", tags=_PURE)
# What depends on a rate and a shape alone: compiled code may hold a rate that is only known when it runs.
_library.define("alpha_terms(float p) -> Tensor", tags=_PURE)
_library.define(
    "block_factor(Tensor key, SymInt[] shape, float p, int block_size, *, ScalarType dtype, Device device) -> Tensor",
    tags=_PURE,
)


def key_tensor(key: int) -> Tensor:
    """A 64-bit key, signed or not, as a 0-dimensional int64 tensor."""
    key &= 2**64 - 1
    return torch.scalar_tensor(key - 2**64 if key >= 2**63 else key, dtype=torch.int64, device="cpu")


CPU = torch.device("cpu")

_calls = itertools.count()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def call_number() -> int:
    """A number that no other traced call has; the compiler asks when it traces and keeps the answer."""
    return next(_calls)


_PLAIN = (Tensor, torch.nn.Parameter)
"""Tensors whose memory is what it seems; subclasses (fake, distributed) take the operators."""

_transform = torch._C._functorch.peek_interpreter_stack
"""The torch.func transform that runs, or None."""

_modes = torch._C._len_torch_dispatch_stack
_tracer = torch._C._get_tracing_state
_compiling = torch.compiler.is_dynamo_compiling


def at_once(x: Tensor) -> bool:
    """Whether the kernel can follow at once: no compiler, subclass, transform, mode or tracer waits for an operator."""
    if _compiling():
        return False
    return type(x) in _PLAIN and _transform() is None and not _modes() and _tracer() is None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def in_transform() -> bool:
    """Whether a torch.func transform is at work; the compiler, which guards on it, asks when it traces."""
    return _transform() is not None


def wide(dtype: torch.dtype) -> torch.dtype:
    """What is computed in: a scale in a half type would be rounded to its few bits, and the mean with it."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def product(op: Any, x: Tensor, key: Tensor, *law: Any) -> Tensor:
    """x times an operator's noise, as a product with a constant: it has every derivative and every batching rule.

    Rounded once, as the kernels do it.
    """
    return times(x, op(torch.ones(x.shape, dtype=wide(x.dtype), device=x.device), key, *law))


def times(x: Tensor, factor: Tensor, inplace: bool = False) -> Tensor:
    """x times a factor of its `wide` type, rounded once."""
    if inplace:
        check_writable(x)
    if factor.dtype == x.dtype:
        return x.mul_(factor) if inplace else x * factor
    result = (x.to(factor.dtype) * factor).to(x.dtype)
    return x.copy_(result) if inplace else result


def check_writable(x: Tensor) -> None:
    """Refuse an inference tensor outside inference mode: torch does so too, but after it has written."""
    if not _compiling() and x.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. You can make a clone to get a "
            "normal tensor before doing inplace update."
        )


def dual(x: Tensor) -> bool:
    """Whether x carries a tangent (forward mode)."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None


def _unsigned(seed: int) -> int:
    return seed & (2**64 - 1)


def _masked(x: Tensor, key: Tensor, p: float, units: Tensor | None = None, behind: Tensor | None = None) -> Tensor:
    return mask_multiply(x, int(key), p, units)


def _masked_next(
    x: Tensor,
    seed: int | None,
    call: int,
    p: float,
    units: Tensor | None = None,
    *,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The masked x, and the key, from which backward makes the mask again."""
    key = keys.next_key(None if seed is None else _unsigned(seed))
    return mask_multiply(x, key, p, units), key_tensor(key)


def _gaussian(x: Tensor, key: Tensor, p: float) -> Tensor:
    return gaussian_multiply(x, int(key), p)


def _alpha_terms(p: float) -> Tensor:
    return torch.tensor(alpha_law(p), dtype=torch.float64, device="cpu")


def _block_factor(
    key: Tensor, shape: Any, p: float, block_size: int, *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    law = block_law(tuple(shape), block_size, p)
    starts = torch.ones(law.seeds_of(tuple(shape)), dtype=torch.float32, device=device)
    return blocks_kept(mask_multiply(starts, int(key), law.gamma) != 0, law, dtype)


# Keys come from nowhere: no argument says which device's implementation is meant.
torch.library.impl("allmasks::draw_key", "default", lambda call, *, device: key_tensor(keys.draw_key()), lib=_library)
torch.library.impl(
    "allmasks::seeded_key",
    "default",
    lambda seed, call, *, device: key_tensor(keys.seeded_key(_unsigned(seed))),
    lib=_library,
)
torch.library.impl("allmasks::masked", "CompositeExplicitAutograd", _masked, lib=_library)
torch.library.impl("allmasks::masked_next", "CompositeExplicitAutograd", _masked_next, lib=_library)
torch.library.impl("allmasks::gaussian", "CompositeExplicitAutograd", _gaussian, lib=_library)
torch.library.impl("allmasks::alpha_terms", "default", _alpha_terms, lib=_library)
torch.library.impl("allmasks::block_factor", "CompositeExplicitAutograd", _block_factor, lib=_library)


@torch.library.register_fake("allmasks::draw_key", lib=_library)
def _(call: int, *, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device)


@torch.library.register_fake("allmasks::seeded_key", lib=_library)
def _(seed: int, call: int, *, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device)


@torch.library.register_fake("allmasks::masked", lib=_library)
def _(x: Tensor, key: Tensor, p: float, units: Tensor | None = None, behind: Tensor | None = None) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("allmasks::masked_next", lib=_library)
def _(x: Tensor, *args: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty((), dtype=torch.int64, device=device)


@torch.library.register_fake("allmasks::gaussian", lib=_library)
def _(x: Tensor, key: Tensor, p: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("allmasks::alpha_terms", lib=_library)
def _(p: float) -> Tensor:
    return torch.empty(3, dtype=torch.float64, device="cpu")


@torch.library.register_fake("allmasks::block_factor", lib=_library)
def _(key: Tensor, shape: Any, p: float, block_size: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def _sign_is_slow(x: Tensor) -> bool:
    """Whether the compiler is tracing, and would keep the sign of this ReLU's output and take long to write it."""
    if not torch.compiler.is_compiling() or x.device.type != "cpu" or x.grad_fn is None:
        return False
    return x.grad_fn.name() == "ReluBackward0" and _booleans_are_slow()


def _booleans_are_slow() -> bool:
    return torch.backends.cpu.get_cpu_capability() != "AVX512"


class _GaussianOp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, key: Tensor, p: float) -> Tensor:
        ctx.p = p
        ctx.save_for_backward(key)
        return _below_autograd(torch.ops.allmasks.gaussian.default, x, key, p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return torch.ops.allmasks.gaussian(grad, ctx.saved_tensors[0], ctx.p), None, None


class _MaskedOp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, key: Tensor, p: float, units: Tensor | None, behind: Tensor | None) -> Tensor:
        ctx.p = p
        ctx.save_for_backward(key, units, x if _sign_is_slow(x) else None)
        return _below_autograd(torch.ops.allmasks.masked.default, x, key, p, units, behind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        key, units, behind = ctx.saved_tensors
        return torch.ops.allmasks.masked(grad, key, ctx.p, units, behind), None, None, None, None


class _MaskedNextOp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        out, key = _below_autograd(torch.ops.allmasks.masked_next.default, x, *rest, device=CPU)
        _, _, ctx.p, units = rest
        ctx.save_for_backward(key, units, x if _sign_is_slow(x) else None)
        ctx.mark_non_differentiable(key)
        ctx.set_materialize_grads(False)  # the key's would be a tensor of zeros
        return out, key

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None, None, None, None]:
        if grad is None:
            return None, None, None, None, None
        return _MaskedOp.backward(ctx, grad)


def _below_autograd(op: Any, *inputs: Any, **device: torch.device) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*inputs, **device)


def _as_product(x: Tensor) -> bool:
    """Whether derivatives are taken that an `autograd.Function` of the old kind has no rule for."""
    return dual(x) or (_transform() is not None and x.requires_grad)


def _masked_autograd_key(
    x: Tensor, key: Tensor, p: float, units: Tensor | None = None, behind: Tensor | None = None
) -> Tensor:
    """What the dispatcher comes to first. Compiled code calls it with plain tensors: for them this is all."""
    if _as_product(x):
        return product(torch.ops.allmasks.masked, x, key, p, units)
    if torch.is_grad_enabled() and x.requires_grad:
        return _MaskedOp.apply(x, key, p, units, behind)
    if at_once(x) and type(key) is Tensor:
        return _masked(x, key, p, units)
    return _below_autograd(torch.ops.allmasks.masked.default, x, key, p, units, behind)


def _masked_next_autograd_key(
    x: Tensor, seed: int | None, call: int, p: float, units: Tensor | None = None, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The same for the next key."""
    if _as_product(x):
        return _in_two(x, seed, call, p, units, device=device)
    if torch.is_grad_enabled() and x.requires_grad:
        return _MaskedNextOp.apply(x, seed, call, p, units)
    if at_once(x):
        return _masked_next(x, seed, call, p, units, device=device)
    return _below_autograd(torch.ops.allmasks.masked_next.default, x, seed, call, p, units, device=device)


def _in_two(
    x: Tensor, seed: int | None, call: int, p: float, units: Tensor | None = None, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`masked_next` as its two parts, for which there are rules."""
    if seed is None:
        key = torch.ops.allmasks.draw_key(call, device=device)
    else:
        key = torch.ops.allmasks.seeded_key(seed, call, device=device)
    return torch.ops.allmasks.masked(x, key, p, units), key


def _gaussian_autograd_key(x: Tensor, key: Tensor, p: float) -> Tensor:
    if _as_product(x):
        return product(torch.ops.allmasks.gaussian, x, key, p)
    if torch.is_grad_enabled() and x.requires_grad:
        return _GaussianOp.apply(x, key, p)
    return _below_autograd(torch.ops.allmasks.gaussian.default, x, key, p)


# What torch.library.register_autograd makes of the same functions takes longer than a small tensor's dropout, and has
# no forward mode.
_library.impl("masked", _masked_autograd_key, "Autograd")
_library.impl("masked_next", _masked_next_autograd_key, "Autograd")
_library.impl("gaussian", _gaussian_autograd_key, "Autograd")


# -- vmap ------------------------------------------------------------------------------------------------------


def _batched(op: Any) -> Any:
    """The rule for vmap. A mask is a function of its key: one key for the whole batch is one mask for each example."""

    def rule(info: Any, in_dims: tuple[int | None, ...], x: Tensor, key: Tensor, *rest: Any) -> tuple[Tensor, int]:
        if any(dim is not None for dim in in_dims[2:4]):
            raise RuntimeError("vmap over drop rates is not supported: pass rates that are the same for all")
        count = info.batch_size
        xs = [x] * count if in_dims[0] is None else x.unbind(in_dims[0])
        each = [key] * count if in_dims[1] is None else key.unbind(in_dims[1])
        return torch.stack([op(one, k, *rest[:2]) for one, k in zip(xs, each, strict=True)]), 0

    return rule


def _batched_blocks(info: Any, in_dims: tuple[Any, ...], key: Tensor, *rest: Any, **kind: Any) -> tuple[Tensor, int]:
    return torch.stack([torch.ops.allmasks.block_factor(k, *rest, **kind) for k in key.unbind(in_dims[0])]), 0


torch.library.register_vmap("allmasks::masked", _batched(torch.ops.allmasks.masked), lib=_library)
torch.library.register_vmap("allmasks::gaussian", _batched(torch.ops.allmasks.gaussian), lib=_library)
torch.library.register_vmap("allmasks::block_factor", _batched_blocks, lib=_library)

_VMAP_MODE = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchVmapMode)


def _random(op: Any) -> Any:
    """The rule of torch's own random operators under vmap: an error, one key for all examples, or one for each."""

    def rule(*args: Any, device: torch.device) -> Tensor:
        level: Any = retrieve_current_functorch_interpreter()
        randomness = level.randomness()
        if randomness == "error":
            raise RuntimeError(
                "vmap: called random operation while in randomness error mode. Please either use the 'same' or "
                "'different' randomness flags on vmap or perform the randomness operation out of vmap"
            )
        with torch._C._ExcludeDispatchKeyGuard(_VMAP_MODE):
            if randomness == "same":
                return op(*args, device=device)
            each = torch.stack([op(*args, device=device) for _ in range(level.batch_size())])
        return torch._C._functorch._add_batch_dim(each, 0, level.level())

    return rule


_library.impl("draw_key", _random(torch.ops.allmasks.draw_key), "FuncTorchVmapMode")
_library.impl("seeded_key", _random(torch.ops.allmasks.seeded_key), "FuncTorchVmapMode")
_library.impl("masked_next", _in_two, "FuncTorchVmapMode")
