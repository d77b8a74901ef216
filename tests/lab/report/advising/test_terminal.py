import io

from rich.console import Console
from tests.lab.advices import advice, no_gain

from adabatch.lab.report.advising.terminal import tables


def test_tables_of_the_terminal():
    stream = io.StringIO()
    for table in tables(advice()):
        Console(file=stream, width=200).print(table)
    said = stream.getvalue()
    assert "digits, mlp: constant batch sizes" in said
    assert "early (chosen)" in said
    assert "1.6x [1.3, 1.9]" in said
    assert list(tables(no_gain())) == []
