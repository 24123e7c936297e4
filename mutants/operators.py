"""Which one-place changes of a module there are.

Rule: a mutant differs from its module in one expression or statement and still parses. Left out is what no test should
hold: the text of messages and of the log, assertions, also by `strict` of a `zip`, annotations, and the constants of a
module, which are measured.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.RShift: ast.LShift,
    ast.LShift: ast.RShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_EXCHANGED = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LOGGED = frozenset({"debug", "info", "warning", "error", "exception"})


@dataclass(frozen=True, slots=True)
class Mutant:
    path: Path
    """Below the root of the repository."""
    within: str
    """The function or class that it is in, dotted."""
    line: int
    kind: str
    before: str
    """The whole module."""
    begin: int
    end: int
    """In bytes of UTF-8."""
    text: str
    """What stands between them then."""

    @property
    def after(self) -> str:
        """The whole module, changed."""
        data = self.before.encode()
        return (data[: self.begin] + self.text.encode() + data[self.end :]).decode()

    def is_one(self) -> bool:
        """Whether it still compiles, and says something else than before. Takes milliseconds."""
        after = self.after
        try:
            changed = ast.dump(ast.parse(after)) != ast.dump(ast.parse(self.before))
            compile(after, str(self.path), "exec")
        except SyntaxError:
            return False  # a `break` outside of a loop, say
        return changed

    @property
    def was(self) -> str:
        return self._changed("-")

    @property
    def becomes(self) -> str:
        return self._changed("+")

    def _changed(self, sign: str) -> str:
        lines = list(unified_diff(self.before.splitlines(), self.after.splitlines(), n=0, lineterm=""))[3:]
        return " ".join(line[1:].strip() for line in lines if line.startswith(sign))

    def diff(self) -> str:
        name = str(self.path)
        lines = unified_diff(self.before.splitlines(), self.after.splitlines(), name, name, n=2, lineterm="")
        return "\n".join(lines)


def mutants_of(root: Path, path: Path) -> list[Mutant]:
    """All that may be mutants (`Mutant.is_one` tells), in the order of their places."""
    source = (root / path).read_text(encoding="utf-8")
    lines = [0]
    """Where each begins."""
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    found: dict[tuple[int, int, str], Mutant] = {}
    for within, node in _live(ast.parse(source)):
        for kind, text in _changes(node):
            place = node.test if isinstance(node, ast.If | ast.While) else node
            begin = lines[place.lineno - 1] + place.col_offset
            end = lines[(place.end_lineno or 0) - 1] + (place.end_col_offset or 0)
            found.setdefault((begin, end, text), Mutant(path, within, place.lineno, kind, source, begin, end, text))
    return [found[key] for key in sorted(found)]


_Node = tuple[str, ast.expr | ast.stmt]


def _live(module: ast.Module) -> Iterator[_Node]:
    """The nodes to be changed, with the name of what they are in."""
    for statement in module.body:
        if isinstance(statement, _NAMED):
            yield from _below(statement, "")


def _below(node: ast.AST, within: str) -> Iterator[_Node]:
    if isinstance(node, ast.Assert) or _is_text(node) or _is_strict(node):
        return
    if isinstance(node, _NAMED):
        within = f"{within}.{node.name}".removeprefix(".")
    if isinstance(node, ast.expr | ast.stmt) and not _is_log(node):
        yield within, node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "exc", "type_params"):
            continue
        if _is_log(node) or (isinstance(node, ast.ClassDef) and name == "keywords"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _below(child, within)
    if _is_log(node) and isinstance(node, ast.Expr) and _method(node.value) != "debug":
        yield within, node


def _is_text(node: ast.AST) -> bool:
    """A docstring, or text for somebody to read."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )


def _method(node: ast.AST) -> str:
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def _is_log(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else node
    return (
        _method(call) in _LOGGED
        and isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "log"
    )


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[str, str]]:
    """(kind, text in its place) for each change of this very node: for `if` and `while`, of what they ask."""
    if isinstance(node, ast.stmt):
        yield from _statements(node)
    else:
        yield from _expressions(node)


def _statements(node: ast.stmt) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Continue():
            yield "continue", "break"
        case ast.Break():
            yield "break", "continue"
        case ast.Expr(value=ast.Constant() | ast.Yield(value=None)):
            pass
        case ast.Expr():
            yield "dropped", "pass"
        case ast.Raise() | ast.Delete():
            yield "dropped", "pass"
        case ast.Return(value=None):
            yield "dropped", "pass"
        case ast.Return(value=ast.Constant(value=None)):
            pass
        case ast.Return():
            yield "returned", "return None"
        case ast.AugAssign(target=target, op=op, value=value):
            yield "dropped", "pass"
            if type(op) in _COMPUTED:
                yield "computed", ast.unparse(ast.AugAssign(target, _COMPUTED[type(op)](), value))
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield "dropped", "pass"
        case ast.If(test=test) | ast.While(test=test) if not isinstance(test, ast.Constant | ast.Compare):
            yield "negated", f"not ({ast.unparse(test)})"
        case _:
            pass


def _expressions(node: ast.expr) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=right):
            yield "compared", ast.unparse(ast.Compare(left, [_COMPARED[type(op)]()], right))
        case ast.BoolOp(op=op, values=values):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "and/or", ast.unparse(ast.BoolOp(other, values))
            for index in range(len(values)):
                rest = values[:index] + values[index + 1 :]
                yield "operand", f"({ast.unparse(rest[0] if len(rest) == 1 else ast.BoolOp(op, rest))})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", f"({ast.unparse(operand)})"
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "negated", ast.unparse(ast.IfExp(test, orelse, body))
        case ast.BinOp(left=first, op=operator, right=second) if type(operator) in _COMPUTED and not _joins(node):
            yield "computed", f"({ast.unparse(ast.BinOp(first, _COMPUTED[type(operator)](), second))})"
        case ast.Constant(value=bool()):
            yield "constant", str(not node.value)
        case ast.Constant(value=int() as value):
            yield "constant", str(value + 1)
            yield "constant", f"({value - 1})"
        case ast.Call():
            yield from _calls(node)
        case _:
            pass


def _joins(node: ast.BinOp) -> bool:
    """A sum of text or types: another operator ends in a TypeError, which any test notices."""
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes | None))
        for side in (node.left, node.right)
    )


def _in_any_order(node: ast.Call) -> bool:
    """The least or greatest of some values."""
    return isinstance(node.func, ast.Name) and node.func.id in ("min", "max") and not node.keywords


def _is_strict(node: ast.AST) -> bool:
    """`strict` of a `zip`: an assertion that both are of one length, or a word that they need not be."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _calls(node: ast.Call) -> Iterator[tuple[str, str]]:
    if isinstance(node.func, ast.Name) and node.func.id in _EXCHANGED:
        name = ast.Name(_EXCHANGED[node.func.id])
        yield "exchanged", ast.unparse(ast.Call(name, node.args, node.keywords))
    for index in range(len(node.args) - 1 if not _in_any_order(node) else 0):
        first, second = node.args[index : index + 2]
        if not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred):
            args = [*node.args[:index], second, first, *node.args[index + 2 :]]
            yield "swapped", ast.unparse(ast.Call(node.func, args, node.keywords))
    for index, keyword in enumerate(node.keywords):
        if _is_strict(keyword):
            continue
        rest = node.keywords[:index] + node.keywords[index + 1 :]
        yield "default", ast.unparse(ast.Call(node.func, node.args, rest))
