"""The core stays small enough to be read by whoever has to trust it."""

from __future__ import annotations

import ast
import tokenize
from pathlib import Path

import consensus

CODE_LINES_MAX = 1500
FILES = sorted(Path(str(consensus.__file__)).parent.glob("*.py"))
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(path: Path) -> int:
    """Lines with code on them: no blank lines, comments or docstrings."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case (
                ast.Module(body=[ast.Expr(value=ast.Constant(value=str())) as text, *_])
                | ast.ClassDef(body=[ast.Expr(value=ast.Constant(value=str())) as text, *_])
                | ast.FunctionDef(body=[ast.Expr(value=ast.Constant(value=str())) as text, *_])
            ):
                documented.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    lines: set[int] = set()
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type not in SILENT and token.start[0]:
                lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


def test_the_core_has_fewer_than_1500_lines_of_code() -> None:
    assert 500 < sum(code_lines(path) for path in FILES) < CODE_LINES_MAX


def test_no_file_of_the_core_is_longer_than_400_lines() -> None:
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) <= 400
