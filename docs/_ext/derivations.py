"""Sets the derivations in docstrings as formulas.

They are written as plain text, to be read beside the code: `dL/db[o] = sum_{n, p} dy`.
In reStructuredText an indented block is a quotation; here each becomes displayed
mathematics, line by line, so that the site shows the docstring and no second text.
"""

import re

NAMES = {
    "alpha": r"\alpha",
    "beta": r"\beta",
    "eps": r"\varepsilon",
    "gamma": r"\gamma",
    "mu": r"\mu",
    "dmu": r"d\mu",
    "xhat": r"\hat{x}",
} | {name: rf"\{name}" for name in ("max", "min", "exp", "log", "sum", "prod")}
FUNCTIONS = {"mean", "var", "floor", "ceil", "scale", "bias"}
FUNCTIONS |= {"dmean", "dvar", "dscale", "dbias"}
TOKEN = re.compile(
    r"(?P<sum>sum_\{(?P<under>[^}]*)\})"
    r"|(?P<over>sum over (?P<indices>\w(?:, \w)*) of)"
    r"|(?P<derivative>dL/d(?P<by>\w))"
    r"|(?P<power>\^(?:\((?P<inner>[^()]*)\)|(?P<plain>-?\w+)))"
    r"|(?P<star>(?<=\w)\*)"
    r"|(?P<words>[A-Za-z]\w*'?(?: [A-Za-z][a-z]+\b(?![\[(]))*)"
    r"|(?P<gap> {2,})"
)
FORMULA = re.compile(r"=|sum|floor")
# Between two factors, which LaTeX would otherwise set as one name.
PRODUCT = re.compile(
    r"(?<=[\w\])}])(?<!\\partial)(?<!\\quad)(?<! })"
    r" (?=\d|[A-Za-z]\b|d[a-z]\b|[A-Za-z]_|\\(?:hat|mu))"
)


def to_latex(text):
    """Returns the LaTeX of one line of a formula in plain text."""

    def token(match):
        found = match.groupdict()
        if found["sum"]:
            under = found["under"].replace(" in ", r" \in ")
            under = "".join(
                part if part == r"\in" else to_latex(part)
                for part in re.split(r"(\\in)", under)
            )
            return rf"\sum_{{{under}}} "
        if found["over"]:
            return rf"\sum_{{{found['indices']}}} "
        if found["derivative"]:
            return rf"\frac{{\partial L}}{{\partial {found['by']}}}"
        if found["power"]:
            return f"^{{{to_latex(found['inner'] or found['plain'])}}}"
        if found["star"]:
            return "^{*}"
        if found["gap"]:
            return r" \quad "
        return " ".join(map(_word, re.findall(r"\S+", match[0])))

    return PRODUCT.sub(r"\\, ", TOKEN.sub(token, text))


def _word(word):
    """Returns a name of one letter, with its index, or a word of a sentence."""
    name, _, index = word.rstrip("'").partition("_")
    prime = "'" if word.endswith("'") else ""
    number = re.fullmatch(r"(d?[A-Za-z])(\d)", name)
    if number:
        name, index = number[1], number[2] + index
    if name in NAMES:
        latex = NAMES[name]
    elif name in FUNCTIONS:
        latex = rf"\operatorname{{{name}}}"
    elif len(name) == 1 or (len(name) == 2 and name[0] == "d"):
        latex = name
    else:
        return r"\text{ " + word.replace("_", r"\_") + " }"
    return latex + (f"_{{{index}}}" if index else "") + prime


def _set_block(block):
    """Returns the directive for one indented block: mathematics, or text as it is."""
    if not any(FORMULA.search(line) for line in block):
        return [".. code-block:: text", "", *block, ""]
    rows = []
    for line in filter(None, map(str.strip, block)):
        left, sign, right = line.partition(" = ")
        rows.append(to_latex(left) + (" &= " + to_latex(right) if sign else ""))
    rows = [row if "&" in row else rf"&\quad {row}" for row in rows]
    body = [f"   {row} " + r"\\" for row in rows]
    return [
        ".. math::",
        "   :nowrap:",
        "",
        r"   \begin{aligned}",
        *body,
        r"   \end{aligned}",
        "",
    ]


def set_derivations(app, what, name, obj, options, lines):
    """Replaces the indented blocks of a docstring, up to the fields of a function."""
    fields = (number for number, line in enumerate(lines) if line.startswith(":"))
    end = next(fields, len(lines))
    kept, block = [], []
    for line in [*lines[:end], ""]:
        if line.startswith("    "):
            block.append(line)
            continue
        if block:
            kept += _set_block(block)
            block = []
        kept.append(line)
    lines[:end] = kept


def setup(app):
    """Registers the translation with Sphinx."""
    app.connect("autodoc-process-docstring", set_derivations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
