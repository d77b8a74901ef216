from adabatch.lab.report.interim import COLUMNS, Done, Interim
from adabatch.lab.report.table import interim_table, plain


def interim(*done, seeds=range(10)):
    runs = {run: Done(0.97 + 0.002 * place, 376, 1.0 + place, diverged=False) for place, run in enumerate(done)}
    return Interim("digits, small_cnn", ["fixed-small", "adaptive"], seeds, runs)


def test_what_is_missing_and_how_far_it_is():
    found = interim(("fixed-small", 0), ("adaptive", 0), ("fixed-small", 1), ("adaptive", 3), ("adaptive", 4))
    assert found.title == "Unfinished: 5 of 20 runs are done"
    assert found.missing == "fixed-small: seeds 2 to 9; adaptive: seeds 1, 2, 5 to 9"
    first, second = found.sentences()
    assert first == "Missing: fixed-small: seeds 2 to 9; adaptive: seeds 1, 2, 5 to 9."
    assert second == (
        "Nothing is claimed before all runs are done: the arms may differ by the seeds that they have so far. "
        "The same adabatch compare command goes on."
    )
    assert interim(("adaptive", 1), seeds=[0, 1]).missing == "fixed-small: seeds 0, 1; adaptive: seed 0"
    assert Interim("digits", ["a"], [0], {}).title == "Unfinished: 0 of 1 run is done"
    whole = interim(("adaptive", 0), ("fixed-small", 0), seeds=[0])
    assert (whole.missing, whole.sentences()[0]) == ("", "All runs are done; the outcome is not written yet.")


def test_a_row_for_each_arm():
    found = interim(("fixed-small", 0), ("fixed-small", 1))
    assert found.rows() == [
        ("fixed-small", ["2 of 10", "97.10 ± 0.14", "376", "1.50", "-"]),
        ("adaptive", ["0 of 10", "-", "-", "-", "-"]),
    ]
    assert all(len(cells) == len(COLUMNS) for _, cells in found.rows())
    lost = Interim("digits", ["a"], [0], {("a", 0): Done(0.1, 5, 1.0, diverged=True)})
    assert lost.rows() == [("a", ["1 of 1", "10.00", "5", "1.00", "1"])]


def test_the_table_says_that_it_is_unfinished_and_claims_nothing():
    text = plain(interim_table(interim(("fixed-small", 0), ("adaptive", 0))))
    assert text.splitlines()[0] == "digits, small_cnn. Unfinished: 2 of 20 runs are done"
    assert [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")] == ["", *COLUMNS]
    for word in ("faster", "fewer", "within", "against", "x ", "["):
        assert word not in text
