from adabatch.lab.study.claims import Claim


def test_a_claim_says_how_it_came_out():
    assert str(Claim("faster", "2.00x", True)) == "passed: faster; found 2.00x"
    assert str(Claim("as accurate", "-3.00 points", False)) == "FAILED: as accurate; found -3.00 points"
