"""torch's dropout family × situations: what torch does, what ours does, and the differences that the docs list.

A cell is a function of a `Side`, torch's or ours, that gives what can be seen: values in eval, the law in training,
exceptions, warnings, versions. `test_drop_in.py` walks all cells: both sides are equal, or `reason`
names a difference that `docs/layers.md` and its Korean twin carry (as an HTML comment `parity: name`).
"""

import copy
import io
import pickle
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import allmasks as am

# function, layer, shape of a usual input
FAMILY = {
    "dropout": ("Dropout", (64, 64)),
    "dropout1d": ("Dropout1d", (64, 64, 4)),
    "dropout2d": ("Dropout2d", (64, 64, 2, 2)),
    "dropout3d": ("Dropout3d", (64, 64, 2, 2, 2)),
    "alpha_dropout": ("AlphaDropout", (64, 64)),
    "feature_alpha_dropout": ("FeatureAlphaDropout", (64, 64, 4)),
}


@dataclass(frozen=True)
class Side:
    """One member of the family, torch's or ours."""

    name: str
    ours: bool

    @property
    def shape(self):
        return FAMILY[self.name][1]

    @property
    def function(self):
        return getattr(am.nn.functional if self.ours else F, self.name)

    def layer(self, *args, **kwargs):
        return getattr(am.nn if self.ours else nn, FAMILY[self.name][0])(*args, **kwargs)

    def train(self, x, p=0.5, inplace=False):
        return self.function(x, p, True, inplace)


def seen(action):
    """What came of it: an exception's type and the warnings' types count as much as a value."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = action()
        except Exception as error:
            result = ("raises", type(error))
    kinds = {w.category for w in caught if "dropout" in str(w.message).lower()}
    return result, frozenset(kind.__name__ for kind in kinds)


def same(theirs, ours):
    """Equal, or an exception of a narrower type with the same warnings, before which nothing more was written."""
    (a, a_warned), (b, b_warned) = theirs, ours
    if a_warned != b_warned:
        return False
    if isinstance(a, tuple) and a[:1] == ("raises",):
        return (
            isinstance(b, tuple)
            and b[:1] == ("raises",)
            and issubclass(b[1], a[1])
            and (a[2:] == b[2:] or not any(b[2]))
        )
    return a == b


# -- tensors of every kind -------------------------------------------------------------------------------------


class Sub(torch.Tensor):
    """A subclass that overrides nothing."""


def jagged(shape):
    return torch.nested.nested_tensor([torch.ones(n, 8) for n in (3, 200, 313)], layout=torch.jagged)


TENSORS = {
    **{
        str(d).removeprefix("torch."): partial(torch.ones, dtype=d)
        for d in (
            torch.float32,
            torch.float64,
            torch.bfloat16,
            torch.float16,
            torch.int64,
            torch.int8,
            torch.uint8,
            torch.bool,
            torch.complex64,
        )
    },
    "float8": lambda s: torch.ones(s).to(torch.float8_e4m3fn),
    "coo": lambda s: torch.ones(s).to_sparse(),
    "csr": lambda s: torch.ones(64, 64).to_sparse_csr(),
    "mkldnn": lambda s: torch.ones(s).to_mkldnn(),
    "quantized": lambda s: torch.quantize_per_tensor(torch.ones(s), 0.1, 0, torch.quint8),
    "jagged": jagged,
    "nested": lambda s: torch.nested.nested_tensor([torch.ones(30, 64), torch.ones(40, 64)]),
    "meta": partial(torch.ones, device="meta"),
    "transposed": lambda s: torch.ones(s[::-1]).permute(*range(len(s))[::-1]),
    "expanded": lambda s: torch.ones(s[1:]).expand(s),
    "every other": lambda s: torch.ones(s[0] * 2, *s[1:])[::2],
    "offset": lambda s: torch.ones(s[0] + 3, *s[1:])[3:],
    "flipped strides": lambda s: torch.ones(s).flip(0).movedim(0, -1).movedim(-1, 0),
    "negated": lambda s: torch._neg_view(torch.ones(s)),
    "imaginary part of a conjugate": lambda s: torch.complex(torch.zeros(s), torch.ones(s)).conj().imag,
    "zero without memory": lambda s: torch._efficientzerotensor(s),
    "no examples": lambda s: torch.ones(0, *s[1:]),
    "no axes": lambda s: torch.tensor(1.0),
    "one axis": lambda s: torch.ones(4096),
    "two axes": lambda s: torch.ones(64, 64),
    "three axes": lambda s: torch.ones(64, 64, 3),
    "four axes": lambda s: torch.ones(64, 64, 3, 2),
    "five axes": lambda s: torch.ones(64, 64, 3, 2, 1),
    "six axes": lambda s: torch.ones(64, 64, 3, 2, 1, 1),
    "subclass": lambda s: torch.ones(s).as_subclass(Sub),
    "parameter": lambda s: nn.Parameter(torch.ones(s)),
    "list": lambda s: [1.0, 2.0],
    "nothing": lambda s: None,
}


def described(x):
    """Type, number type, layout, shape, whether there is a gradient: all that is not a value."""
    shape = x.shape if not x.is_nested else x.numel()
    return type(x), x.dtype, x.layout, shape, x.requires_grad, x.device


def values(x):
    """The numbers, in a form that compares."""
    if x.device.type == "meta":
        return None
    if x.is_quantized:
        x = x.dequantize()
    if x.is_nested:
        return [t.tolist() for t in x.unbind()]
    return (x.to_dense() if x.layout is not torch.strided else x).tolist()


def passed(side, make, p, training):
    x = make(side.shape)
    out = side.function(x, p, training)
    return out is x, described(out), values(out)


def lawful(side, make):
    """In training: the two values there are, which axes share them, and whether half of the units are kept."""
    x = make(side.shape)
    out = side.train(x)
    about = described(out)
    if out.device.type == "meta" or out.numel() == 0:
        return about
    out = out.detach().as_subclass(torch.Tensor)
    out = torch.cat([t.flatten() for t in out.unbind()]) if out.is_nested else out
    out = out.double()
    kinds = sorted({round(v, 2 if out.dtype is not torch.float64 else 1) + 0.0 for v in out.flatten().tolist()})
    if out.ndim == 0:
        return about, len(kinds) == 1
    shared = tuple(bool((out == out.narrow(a, 0, 1)).all()) for a in range(out.ndim))
    # Equal values may differ in their last bit between a loop's vector part and its rest.
    kept = (out > (out.max() + out.min()) / 2).double() if len(kinds) == 2 else torch.ones(())
    for axis in (a for a in range(out.ndim) if shared[a]):
        kept = kept.narrow(axis, 0, 1)
    z = (kept.mean() - 0.5) * 2 * kept.numel() ** 0.5
    return about, kinds, shared, bool(len(kinds) < 2 or abs(z) < 4.5)


# -- in place --------------------------------------------------------------------------------------------------


def _view_without_grad():
    base = torch.ones(64, 64, requires_grad=True) * 1
    with torch.no_grad():
        return base[:32]


def _inference():
    with torch.inference_mode():
        return torch.ones(64, 64)


IN_PLACE = {
    "plain": lambda: torch.ones(64, 64),
    "half": lambda: torch.ones(64, 64).bfloat16(),
    "leaf": lambda: torch.ones(64, 64, requires_grad=True),
    "result": lambda: torch.ones(64, 64, requires_grad=True) * 1,
    "view": lambda: (torch.ones(64, 64, requires_grad=True) * 1)[:32],
    "view of a leaf": lambda: torch.ones(64, 64, requires_grad=True)[:32],
    "one of many views": lambda: (torch.ones(2, 64, 64, requires_grad=True) * 1).unbind()[0],
    "one of many views, no grad": lambda: torch.ones(2, 64, 64).unbind()[0],
    "a view made without grad": _view_without_grad,
    "inference tensor": _inference,
    "parameter": lambda: nn.Parameter(torch.ones(64, 64)),
    "detached": lambda: torch.ones(64, 64, requires_grad=True).detach(),
    "expanded": lambda: torch.ones(1, 64).expand(64, 64),
    "transposed": lambda: torch.ones(32, 64).t(),
    "sliced": lambda: torch.ones(64, 64)[:, ::2],
    "negated": lambda: torch._neg_view(torch.ones(64, 64)),
    "zero without memory": lambda: torch._efficientzerotensor((64, 64)),
    "no elements": lambda: torch.ones(0, 64),
    "integers": lambda: torch.ones(64, 64, dtype=torch.int64),
    "subclass": lambda: torch.ones(64, 64).as_subclass(Sub),
    "meta": lambda: torch.ones(64, 64, device="meta"),
}
MODES = {"grad": nullcontext, "no grad": torch.no_grad, "inference": torch.inference_mode}


def overwritten(side, make, mode, p):
    """Exception, whether the data changed, how far the version went, and what the result is."""
    x = make()
    version = None if x.is_inference() else x._version
    before = x.detach().clone()
    try:
        with mode():
            out = side.train(x, p, True)
        result = (out is x, out.grad_fn is not None)
    except Exception as error:
        result = ("raises", type(error))
    changed = x.device.type != "meta" and not bool(torch.equal(before, x.detach()))
    counted = None if version is None else x._version > version
    return (*result, changed, counted) if result[0] != "raises" else (*result, (changed, counted))


def saved_by_another(side, mode):
    """A tensor that another operation keeps is overwritten: backward must say so."""
    y = torch.ones(64, 64, requires_grad=True) * 1
    z = y.square()
    with mode():
        side.train(y.detach() if mode is nullcontext else y, 0.5, True)
    z.sum().backward()


# -- derivatives and transforms --------------------------------------------------------------------------------


def consistent(side, take, inplace=False):
    """Whether a derivative is the factor that the very call multiplied by."""
    torch.manual_seed(3)
    x = (torch.rand(side.shape, dtype=torch.float64) + 0.5)[:3, :3]
    found = []

    def call(t):
        torch.manual_seed(5)
        out = side.train(t * 1 if inplace else t, 0.5, inplace)
        found.append(out)
        return out

    torch.manual_seed(5)
    a, b = side.train(x), None
    torch.manual_seed(5)
    b = side.train(2 * x)
    factor = (b - a) / x
    v = torch.rand(x.shape, dtype=torch.float64)
    return bool(torch.allclose(take(call, x, v), factor * v))


def _vjp(call, x, v):
    y = x.clone().requires_grad_()
    return torch.autograd.grad(call(y), y, v)[0]


def _batched_vjp(call, x, v):
    y = x.clone().requires_grad_()
    return torch.autograd.grad(call(y), y, torch.stack([v, v]), is_grads_batched=True)[0][1]


def _vmapped_vjp(call, x, v):
    y = x.clone().requires_grad_()
    out = call(y)
    return torch.vmap(lambda g: torch.autograd.grad(out, y, g, retain_graph=True)[0])(torch.stack([v, v]))[1]


def _dual(call, x, v, mode=nullcontext):
    with fwAD.dual_level(), mode():
        return fwAD.unpack_dual(call(fwAD.make_dual(x, v))).tangent


def _dual_of_subclass(call, x, v):
    y = x.clone().as_subclass(Sub).requires_grad_()
    with fwAD.dual_level():
        return fwAD.unpack_dual(call(fwAD.make_dual(y, v))).tangent.detach().as_subclass(torch.Tensor)


def _jacobian(call, x, v, **how):
    full = torch.autograd.functional.jacobian(call, x, vectorize=True, **how)
    return torch.tensordot(full, v, x.ndim)


def _double(call, x, v):
    y = x.clone().requires_grad_()
    w = torch.zeros_like(x, requires_grad=True)
    (g,) = torch.autograd.grad(call(y), y, w, create_graph=True)
    return torch.autograd.grad(g, w, v)[0]


def _checkpointed(call, x, v, reentrant=False):
    y = x.clone().requires_grad_()
    checkpoint(call, y, use_reentrant=reentrant).backward(v)
    return y.grad


DERIVATIVES = {
    "backward": _vjp,
    "batched gradients": _batched_vjp,
    "vmap of grad": _vmapped_vjp,
    "double backward": _double,
    "forward mode": _dual,
    "forward mode under a dispatch mode": partial(_dual, mode=lambda: FlopCounterMode(display=False)),
    "forward mode of a subclass that requires grad": _dual_of_subclass,
    "vectorised jacobian": _jacobian,
    "vectorised jacobian, forward mode": partial(_jacobian, strategy="forward-mode"),
    "func.vjp": lambda call, x, v: torch.func.vjp(call, x)[1](v)[0],
    "func.jvp": lambda call, x, v: torch.func.jvp(call, (x,), (v,))[1],
    "func.jacrev": lambda call, x, v: torch.tensordot(torch.func.jacrev(call)(x), v, x.ndim),
    "func.jacfwd": lambda call, x, v: torch.tensordot(torch.func.jacfwd(call, randomness="same")(x), v, x.ndim),
    "func.linearize": lambda call, x, v: torch.func.linearize(call, x)[1](v),
    "checkpoint": _checkpointed,
    "checkpoint, reentrant": partial(_checkpointed, reentrant=True),
}


def mapped(side, randomness, inplace=False):
    """Whether the examples of a batch share their mask."""
    torch.manual_seed(1)
    x = torch.ones(2, *side.shape)
    out = torch.vmap(lambda t: side.train(t, 0.5, inplace), randomness=randomness)(x)
    return bool(torch.equal(out[0], out[1]))


# -- tracing ---------------------------------------------------------------------------------------------------


def net(side, **kwargs):
    return nn.Sequential(nn.Identity(), side.layer(0.5, **kwargs))


def symbolic(side):
    """What torch.fx records, and whether the trace follows the layer's mode and rate."""
    traced = torch.fx.symbolic_trace(net(side))
    x = torch.ones(side.shape)
    trained = traced(x)
    traced.get_submodule("1").p = 0.0
    off = bool(torch.equal(traced(x), x))
    traced.get_submodule("1").p = 0.5
    return (
        [n.op for n in traced.graph.nodes],
        bool(torch.equal(trained, x)),
        off,
        bool(torch.equal(traced.eval()(x), x)),
    )


def scripted(side, save=False):
    module = torch.jit.script(net(side))
    if save:
        file = io.BytesIO()
        torch.jit.save(module, file)
        file.seek(0)
        module = torch.jit.load(file)
    x = torch.ones(side.shape)
    return bool(torch.equal(module(x), x)), bool(torch.equal(module.eval()(x), x))


def jit_traced(side):
    x = torch.ones(side.shape)
    return bool(torch.equal(torch.jit.trace(net(side).eval(), (x,))(x), x))


def compiled(side, training=True):
    torch._dynamo.reset()
    module = net(side).train(training)
    run = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.ones(side.shape)
    results = []
    for p in (0.5, 0.25, 0.75):  # a rate that changes must not be held
        module[1].p = p
        out = run(x)
        results.append(sorted({round(v, 3) + 0.0 for v in out.flatten().tolist()}))
    return results


def exported(side, strict, training):
    module = net(side).train(training)
    x = torch.ones(side.shape)
    program = torch.export.export(module, (x,), strict=strict).module()
    return sorted({round(v, 3) + 0.0 for v in program(x).flatten().tolist()})


def faked(side):
    with FakeTensorMode():
        x = torch.ones(side.shape)
        out = net(side)(x)
        return tuple(out.shape), type(out).__name__


def copied(side, how):
    layer = how(side.layer(0.3, inplace=True).eval())
    return layer.p, layer.inplace, layer.training


def stored(side):
    layer = side.layer(0.3)
    return list(layer.state_dict()), list(layer.named_buffers()), layer.extra_repr()


# -- arguments -------------------------------------------------------------------------------------------------

RATES = {"below 0": -0.1, "above 1": 1.1, "nan": float("nan"), "text": "a", "none": None, "True": True, "integer 0": 0}


def with_rate(side, p, training):
    out = side.function(torch.ones(side.shape), p, training)
    return described(out)


def built(side, p):
    return side.layer(p).p


def autocast(side):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return [side.train(torch.ones(side.shape, dtype=d)).dtype for d in (torch.float32, torch.bfloat16)]


def without_grad(side, mode):
    with mode():
        out = side.train(torch.ones(side.shape, requires_grad=True))
        return out.requires_grad, out.is_inference()


def defaults(side):
    x = torch.ones(side.shape)
    layer = side.layer()
    off = bool(torch.equal(side.function(x), x))
    return layer.p, layer.inplace, layer.training, off


# -- the table -------------------------------------------------------------------------------------------------


def cells():
    """(kind, situation, function of a Side) of each cell."""
    for kind, make in TENSORS.items():
        for situation, p, training in (("eval", 0.5, False), ("p = 0", 0.0, True), ("p = 1", 1.0, True)):
            yield "tensors", f"{kind}, {situation}", partial(passed, make=make, p=p, training=training)
        yield "tensors", f"{kind}, training", partial(lawful, make=make)
    for kind, make in IN_PLACE.items():
        for mode, context in MODES.items():
            for p in (0.5, 1.0):
                yield "in place", f"{kind}, {mode}, p = {p}", partial(overwritten, make=make, mode=context, p=p)
    for mode, context in MODES.items():
        yield "in place", f"saved by another, {mode}", partial(saved_by_another, mode=context)
    for what, take in DERIVATIVES.items():
        for inplace in (False, True):
            yield (
                "derivatives",
                what + (", in place" if inplace else ""),
                partial(consistent, take=take, inplace=inplace),
            )
    for randomness in ("same", "different", "error"):
        yield "vmap", randomness, partial(mapped, randomness=randomness)
        yield "vmap", f"{randomness}, in place", partial(mapped, randomness=randomness, inplace=True)
    yield "tracing", "torch.fx", symbolic
    yield "tracing", "jit.script", scripted
    yield "tracing", "jit.script, saved", partial(scripted, save=True)
    yield "tracing", "jit.trace in eval", jit_traced
    for training in (True, False):
        yield "tracing", f"compile, training = {training}", partial(compiled, training=training)
        for strict in (True, False):
            what = f"export, strict = {strict}, training = {training}"
            yield "tracing", what, partial(exported, strict=strict, training=training)
    yield "tracing", "fake tensors", faked
    for name, how in (("deepcopy", copy.deepcopy), ("pickle", lambda m: pickle.loads(pickle.dumps(m)))):
        yield "layers", name, partial(copied, how=how)
    yield "layers", "state", stored
    yield "layers", "defaults", defaults
    for name, p in RATES.items():
        yield "layers", f"p {name}", partial(built, p=p)
        for training in (True, False):
            yield "rates", f"{name}, training = {training}", partial(with_rate, p=p, training=training)
    yield "modes", "autocast", autocast
    for mode, context in MODES.items():
        yield "modes", mode, partial(without_grad, mode=context)


CELLS = {(kind, situation): action for kind, situation, action in cells()}


# -- what differs, by the reason that the docs give ------------------------------------------------------------


def _one_example(name, kind):
    axes = {"no axes": 0, "one axis": 1, "two axes": 2, "three axes": 3, "four axes": 4, "six axes": 6, "csr": 2}
    return kind in axes and ((name == "dropout1d" and axes[kind] == 2) or name == "dropout3d")


def reason(name, group, situation):
    """The docs' name of the reason why this cell may differ, or None."""
    kind, _, when = situation.rpartition(", ")
    if group == "tensors":
        if kind in ("list", "nothing"):
            return "no-tensor"
        if kind == "coo" and when == "p = 1":
            return "sparse-zeros"
        if kind in ("csr", "jagged", "nested", "float8", "zero without memory"):
            return "more-tensors"
        if when in ("eval", "p = 0") and _one_example(name, kind):
            return "itself"
    if group == "in place":
        return "itself" if situation.startswith("no elements") else None
    if (group == "rates" and situation.startswith("nan")) or (group == "layers" and situation == "p nan"):
        return "nan"
    return None
