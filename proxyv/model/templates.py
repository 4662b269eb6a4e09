"""Chat templates: Jinja text that came with a model or a recipe, and so from anybody.

transformers renders them in a sandbox that keeps them from Python's insides, but lets them loop for hours and fill the
memory. Here every template is rendered first in the same sandbox with a budget, over which it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from inspect import isfunction
from pathlib import Path
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from transformers.utils import get_json_schema

from proxyv.errors import UserError, reason, suggest

_FOLDER = Path(__file__).parent / "chat_templates"

# Of one rendering, in loop rounds, characters and items made; a call counts as ten.
BUDGET = 1_000_000
BUDGET_PER_CHARACTER = 20  # of what is rendered: long conversations may do more
_LONGEST = 100_000  # characters of a template
_WIDEST = 1000  # of an indent

# What chat templates are made of. Others make values of any size out of small ones.
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "indent", "int"),
    *("items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace"),
    *("reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "tojson", "trim"),
    *("unique", "upper"),
)
_METHODS = (
    *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "rpartition", "replace", "join"),
    *("removeprefix", "removesuffix", "startswith", "endswith", "find", "rfind", "index", "rindex", "count"),
    *("upper", "lower", "title", "capitalize", "casefold", "isalnum", "isalpha", "isdigit", "isspace", "isupper"),
    *("islower", "isnumeric", "isdecimal", "items", "keys", "values", "get", "copy"),
)
_left: ContextVar[list[int]] = ContextVar("left")  # of the budget of the rendering that runs; one item


class _BudgetError(Exception):
    """The budget is used up."""


def template_names() -> list[str]:
    """The names of the shipped chat templates."""
    return sorted(path.stem for path in _FOLDER.glob("*.jinja"))


def chat_template(name: str) -> str:
    """The Jinja text of `chat_templates/<name>.jinja`. Raises UserError for an unknown name, with the nearest known."""
    path = _FOLDER / f"{name}.jinja"
    if path.parent != _FOLDER or not path.is_file():
        raise UserError(f"llm.chat_template: '{name}' is unknown{suggest(name, template_names())}")
    return path.read_text(encoding="utf-8")


def check_rendering(template: str | None, messages: Sequence[Any], **variables: Any) -> str:
    """Render a conversation within the budget; returns the text.

    Args:
        template: Jinja text; None is refused.
        messages: `{"role", "content"}` each.
        variables: what else the template may read, as special tokens.

    Raises UserError for a template that is wrong, refuses the messages, reaches for Python's insides, or does not end
    within the budget.
    """
    if template is None:
        raise UserError("chat template: there is none; name one in the recipe (llm.chat_template)")
    plain = json.dumps({"messages": list(messages), **variables}, default=_stand_in)
    token = _left.set([BUDGET + BUDGET_PER_CHARACTER * len(plain)])
    try:
        with _told():
            return _compiled(template).render(json.loads(plain))
    finally:
        _left.reset(token)


def _stand_in(value: Any) -> Any:
    """What a template sees of a tool, as Hugging Face describes it, and of images and the like."""
    return get_json_schema(value) if isfunction(value) else type(value).__name__


@contextmanager
def _told() -> Iterator[None]:
    """Errors of templates as UserError: Jinja's own, and whatever Python raises where a template errs."""
    try:
        yield
    except _BudgetError as error:
        raise UserError(
            "chat template: takes more steps than a conversation needs; mend it, or name another (llm.chat_template)"
        ) from error
    except (
        TemplateError,
        ArithmeticError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise UserError(f"chat template: {reason(error)}; mend it, or name another (llm.chat_template)") from error


@lru_cache(maxsize=32)
def _compiled(template: str) -> Template:
    if len(template) > _LONGEST:
        raise ValueError(f"{len(template):,} characters are more than {_LONGEST:,}")
    environment = _Environment()
    return environment.from_string(_counted(environment.parse(template)))


def _counted(tree: nodes.Template) -> nodes.Template:
    """The template with its loops and whatever makes a text or a list sent through the filter "spent"."""
    for parent in list(tree.find_all(nodes.Node)):
        for name, value in parent.iter_fields():
            if isinstance(value, list):
                setattr(parent, name, [_wrapped(parent, name, one) for one in value])
            elif isinstance(value, nodes.Node):
                setattr(parent, name, _wrapped(parent, name, value))
    return tree


def _wrapped(parent: nodes.Node, field: str, node: Any) -> Any:
    if isinstance(node, nodes.TemplateData):  # as an expression, it is paid for whenever it is put out
        return nodes.Const(node.data, lineno=node.lineno, environment=node.environment)
    makes = isinstance(node, (nodes.Concat, nodes.List, nodes.Dict))
    made = isinstance(node, nodes.Tuple) and node.ctx == "load"
    if makes or made or (isinstance(parent, nodes.For) and field == "iter"):
        name = "rounds" if isinstance(parent, nodes.For) and field == "iter" else "spent"
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)
    return node


# ── the budget ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _spend(amount: int) -> None:
    left = _left.get()
    left[0] -= amount
    if left[0] < 0:
        raise _BudgetError


def _spent(value: Any) -> Any:
    """The value, whose parts, wherever they lie in it, were paid for."""
    if isinstance(value, (str, bytes)):
        _spend(1 + len(value))
    elif isinstance(value, int):
        _spend(1 + value.bit_length() // 64)
    elif isinstance(value, Mapping):
        _spend(1)
        for one in value.values():
            _spent(one)
    elif isinstance(value, (list, tuple)):
        _spend(1)
        for one in value:
            _spent(one)
    else:
        _spend(1)
    return value


def _rounds(values: Iterable[Any]) -> Iterator[Any]:
    """The values of a loop, each round paid for."""
    for value in values:
        _spend(1)
        yield value


def _spend_on(name: str, subject: Any, given: Sequence[Any]) -> None:
    """Pay for what a filter or a method of this name is about to make of its subject and what else it is given.

    Raises SecurityError for widths and the like that are wider than any text needs.
    """
    size = len(subject) if isinstance(subject, (str, list, tuple, dict)) else 1
    texts = [one for one in given if isinstance(one, str)]
    if any(isinstance(one, int) and abs(one) > _WIDEST for one in given) and name not in ("default", "d", "get"):
        raise SecurityError(f"{name}: a number above {_WIDEST} is more than chat templates need")
    if name == "replace" and isinstance(subject, str) and len(texts) > 1:
        _spend(subject.count(texts[0]) * len(texts[1]))
    elif name in ("join", "indent", "tojson"):
        widest = max([len(one) for one in texts] + [one for one in given if isinstance(one, int)], default=0)
        _spend(max(size, 1) * widest)
    _spend(1 + size)


class _Generation(Extension):
    """The tag around what the assistant says, which transformers' own environment has too: its body, as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """transformers' environment for chat templates, with a budget and without what chat templates do not need."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is worked out before there is a budget
            finalize=pass_context(lambda context, value: _spent(value)),
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        known = {**self.filters, "tojson": _to_json}
        self.filters = {name: _paid_filter(name, known[name]) for name in _FILTERS}
        self.filters |= {"spent": _spent, "rounds": _rounds}
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace", "cycler", "joiner")}
        self.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form[:100])}

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        """As the sandbox's, paid for; of the methods of texts, lists and mappings only those that templates need."""
        owner: Any = getattr(function, "__self__", None)
        name = getattr(function, "__name__", "")
        _require(name not in ("format", "format_map"), f"the method {name}")  # the sandbox wraps these
        if isinstance(owner, (str, bytes, int, float, list, tuple, dict)):
            _require(name in _METHODS, f"the method {name}")
            if name == "join":
                args = tuple(list(values) for values in args)
                _spend(sum(map(len, args)) * _size(owner))
            _spend_on(name, owner, [*args, *kwargs.values()])
        _spend(10)
        return _spent(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """As the sandbox's, paid for."""
        numbers = all(isinstance(side, (int, float)) for side in (left, right))
        _require(numbers or operator in ("+", "*"), f"{operator} of texts")
        if operator == "**":
            _spend(int(abs(right) * left.bit_length()) if isinstance(left, int) else 1)
        if operator == "*":
            sizes = [abs(one) if isinstance(one, int) else _size(one) for one in (left, right)]
            _spend(sizes[0] * sizes[1] if any(_size(one) for one in (left, right)) else 1)
        return _spent(super().call_binop(context, operator, left, right))


def _require(allowed: bool, what: str) -> None:
    if not allowed:
        raise SecurityError(f"{what} is not for chat templates")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _paid_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is paid for; its marks (whether it takes the context, the environment) are kept."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        subject = args[first]
        if isinstance(subject, (Iterator, MappingView, range)):
            subject = list(_rounds(cast("Iterable[Any]", subject)))
        _spend_on(name, subject, [*args[first + 1 :], *kwargs.values()])
        return _spent(function(*args[:first], subject, *args[first + 1 :], **kwargs))

    return paid


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(_spent(value), ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
