import re

from adabatch.lab.report import blocks
from adabatch.lab.report.figures import Table


def test_text_is_escaped():
    html = blocks.table(Table(["<b>"], [("<i>", [("<u>", ["<s>"])])], corner="<a>", arms=True))
    assert not re.search(r"<(b|u|s|a)>|<i>", html)
    assert blocks.facts([("<b>", "<i>")]).count("&lt;") == 2


def test_no_table_is_no_text():
    assert blocks.table(None) == ""


def test_a_long_figure_is_set_small_so_that_its_card_holds_it():
    assert 'class="value">over 1.02×<' in blocks.card("times as fast", "over 1.02×")
    assert 'class="value text">over 0.547×<' in blocks.card("outcome", "over 0.547×")
    assert 'class="value text">none<' in blocks.card("outcome", "none")
