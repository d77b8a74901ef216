import re

from adabatch.lab.report import blocks
from adabatch.lab.report.figures import Table


def test_text_is_escaped():
    html = blocks.table(Table(["<b>"], [("<i>", [("<u>", ["<s>"])])], corner="<a>", arms=True))
    assert not re.search(r"<(b|u|s|a)>|<i>", html)
    assert blocks.facts([("<b>", "<i>")]).count("&lt;") == 2


def test_no_table_is_no_text():
    assert blocks.table(None) == ""
