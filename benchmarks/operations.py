"""How many floating-point operations a compiled kernel makes: a copy of it that counts them.

Every `a + b` of the source becomes a call that does the same and counts when one of the two is a floating-point
number, and so in all kernels that it calls; the copy is compiled and run on the arguments of interest. So the count is
of what is computed, branches and bounds included, and nobody has to keep formulas up to date. Additions,
subtractions, multiplications, divisions, powers, square roots and the like count one for each element, a fused
multiply-add therefore two; comparisons, conversions and integers count nothing.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.registry import CPUDispatcher
from numba.extending import overload

PREFIX = "crowdfit._kernels."
COUNTER = "_ops"
_BINARY = {
    ast.Add: ("_add", "+"), ast.Sub: ("_sub", "-"), ast.Mult: ("_mul", "*"), ast.Div: ("_div", "/"),
    ast.Pow: ("_pow", "**"), ast.FloorDiv: ("_floordiv", "//"), ast.Mod: ("_mod", "%"),
}  # fmt: skip
_FUNCTIONS = ("sqrt", "exp", "log", "log10", "hypot", "arctan2", "sin", "cos", "power")
"""Functions of numpy that count one for each element of their result; `sum` and `dot` follow their own rule."""


def _has_float(kind: Any) -> bool:
    """Return whether a numba type is a floating-point number or an array of such."""
    return isinstance(kind.dtype if isinstance(kind, types.Array) else kind, types.Float)


def _counting(symbol: str) -> Callable[..., Any]:
    """Return a function for compiled code that applies a binary operator and counts."""

    def stub(a: Any, b: Any, ops: Any) -> Any:
        raise NotImplementedError("for compiled code only")

    names: dict[str, Any] = {}
    source = f"""
def scalar(a, b, ops):
    ops[0] += 1
    return a {symbol} b
def array(a, b, ops):
    result = a {symbol} b
    ops[0] += result.size
    return result
def uncounted(a, b, ops):
    return a {symbol} b
"""
    exec(source, names)

    @overload(stub, strict=False)  # annotations would count as other names of the arguments
    def choose(a: Any, b: Any, ops: Any) -> Any:
        if not (_has_float(a) or _has_float(b) or symbol == "/"):
            return names["uncounted"]
        is_array = isinstance(a, types.Array) or isinstance(b, types.Array)
        return names["array" if is_array else "scalar"]

    return stub


def _size(value: Any) -> int:
    """Return the number of elements; for compiled code only."""
    raise NotImplementedError


@overload(_size, strict=False)
def _size_of(value: Any) -> Any:
    if isinstance(value, types.Array):
        return lambda value: value.size
    return lambda value: 1


@njit
def _counted(result: Any, n: int, ops: Any) -> Any:
    """Return `result` after adding `n` to the count."""
    ops[0] += n
    return result


HELPERS = {name: _counting(symbol) for name, symbol in _BINARY.values()}
HELPERS |= {"_size": _size, "_counted": _counted}


class _Rewriter(ast.NodeTransformer):
    """Turns the source of a kernel into that of its counting copy; `kernels` are those it calls."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.kernels: dict[str, CPUDispatcher] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # noqa: N802 - the name ast looks for
        """Drop the decorator and add the counter to the arguments."""
        node.decorator_list = []
        node.args.args.append(ast.arg(COUNTER))
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:  # noqa: N802
        """Replace an operator."""
        self.generic_visit(node)
        return self._operation(node.op, node.left, node.right) or node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:  # noqa: N802
        """Replace `a += b` by `a = a + b`, counted."""
        target = ast.parse(ast.unparse(node.target), mode="eval").body
        self.generic_visit(node)
        counted = self._operation(node.op, self.visit(target), node.value)
        return node if counted is None else ast.Assign([node.target], counted)

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802
        """Give the counter to other kernels, and count what functions of numpy do."""
        self.generic_visit(node)
        name = ast.unparse(node.func)
        found = self.scope.get(name)
        if isinstance(found, CPUDispatcher):
            self.kernels[name] = found
            node.args.append(_name(COUNTER))
            return node
        if name in {f"np.{function}" for function in _FUNCTIONS}:
            sizes = [_call("_size", argument) for argument in node.args]
            return _call(
                "_counted", node, _call("max", *sizes) if len(sizes) > 1 else sizes[0], _name(COUNTER)
            )
        if name in ("np.sum", "np.dot"):
            size = _call("_size", node.args[0])
            twice = ast.BinOp(ast.Constant(1 + (name == "np.dot")), ast.Mult(), size)
            return _call("_counted", node, twice, _name(COUNTER))
        return node

    @staticmethod
    def _operation(op: ast.operator, left: ast.expr, right: ast.expr) -> ast.expr | None:
        """Return the counted form of an operation; None for those on bits, which have no floating-point form."""
        entry = _BINARY.get(type(op))
        return None if entry is None else _call(entry[0], left, right, _name(COUNTER))


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(_name(name), list(arguments), [])


_COPIES: dict[str, Any] = {}


def counting_copy(kernel: Any) -> Any:
    """Return a compiled copy of a kernel that takes one argument more, an int64 array, and counts into it."""
    function = kernel.py_func
    key = f"{function.__module__}.{function.__qualname__}"
    if key not in _COPIES:
        rewriter = _Rewriter(function.__globals__)
        tree = rewriter.visit(ast.parse(textwrap.dedent(inspect.getsource(function))))
        scope = dict(function.__globals__) | HELPERS
        scope |= {name: counting_copy(other) for name, other in rewriter.kernels.items()}
        exec(compile(ast.fix_missing_locations(tree), f"<counting {key}>", "exec"), scope)
        # not parallel: the counter is shared
        _COPIES[key] = njit(error_model="numpy")(scope[function.__name__])
    return _COPIES[key]


def count_operations(kernel: Any, arguments: tuple[Any, ...]) -> int:
    """Return how many floating-point operations a call makes; its output arguments are filled as always."""
    ops = np.zeros(1, np.int64)
    counting_copy(kernel)(*arguments, ops)
    return int(ops[0])
