"""Chat templates are rendered within a budget, and as Hugging Face renders them."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from proxyv.errors import UserError
from proxyv.model import templates
from proxyv.model.templates import chat_template, check_rendering
from tests.tiny import tiny_model

TALK = [
    {"role": "user", "content": "<image>\nwhat is it"},
    {"role": "assistant", "content": "a page"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and this"}]},
]
ENDLESS = "more steps than a conversation needs"
DOUBLING = "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = DOUBLE %}{% endfor %}{{ n.x }}"
BAD = {
    "{% for i in range(10**9) %}a{% endfor %}": "Range too big",
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}": ENDLESS,
    "{% for i in range(90000) %}" + "a" * 5000 + "{% endfor %}": ENDLESS,
    "{{ 'a' * 10**9 }}": ENDLESS,
    DOUBLING.replace("DOUBLE", "n.x ~ n.x"): ENDLESS,
    DOUBLING.replace("DOUBLE", "n.x + n.x"): ENDLESS,
    DOUBLING.replace("DOUBLE", "[n.x, n.x]"): ENDLESS,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}": ENDLESS,
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "recursion",
    "{{ ('a' * 1000)|replace('a', 'b' * 100000) }}": ENDLESS,
    "{{ range(90000)|join('x' * 100000) }}": ENDLESS,
    "{{ ('a' * 1000).join(['b'] * 100000) }}": ENDLESS,
    "{{ '%999999999d' % 1 }}": "% of texts",
    "{{ '{:999999999}'.format(1) }}": "the method format",
    "{{ 'a'|center(10**9) }}": "No filter named 'center'",
    "{{ messages|tojson(indent=10**8) }}": "a number above 1000",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ 'a'|attr('__class__') }}": "No filter named 'attr'",
    "{{ messages[9].content }}": "no element 9",
    "{{ raise_exception('roles must alternate') }}": "roles must alternate",
    "{% include 'x' %}": "no loader",
    "{{": "unexpected",
    "{{ 1 / 0 }}": "division by zero",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}": "recursion",
    "a" * 200_000: "200,000 characters",
}


@pytest.mark.parametrize(("template", "why"), BAD.items(), ids=[template[:40] for template in BAD])
def test_a_template_that_is_wrong_or_does_not_end_is_refused_in_one_line(template, why):
    with pytest.raises(UserError, match="^chat template: ") as refusal:
        check_rendering(template, TALK)
    assert why in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", templates.template_names())
def test_shipped_templates_are_rendered_as_hugging_face_does(name):
    special = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
    theirs, _ = render_jinja_template([TALK], chat_template=chat_template(name), **special)
    assert check_rendering(chat_template(name), TALK, **special) == theirs[0]


def test_long_conversations_have_a_longer_budget():
    talk = [{"role": "user", "content": "word " * 200_000}]
    assert len(check_rendering(chat_template("qwen"), talk)) > 1_000_000


def test_the_processor_refuses_before_hugging_face_renders(monkeypatch):
    processor = tiny_model()[1]
    processor.chat_template = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    with pytest.raises(UserError, match=ENDLESS):
        processor.apply_chat_template(TALK, tokenize=False)


def test_names_of_shipped_templates_are_no_paths():
    with pytest.raises(UserError, match="unknown"):
        chat_template("../chat_templates/qwen")
