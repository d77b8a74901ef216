import json

from hypothesis import given
from hypothesis import strategies as st

from adabatch.lab.study.curve import Curve, CurvePoint

losses = st.none() | st.floats(0, 1e9)
points = st.builds(CurvePoint, st.integers(1, 10**9), st.integers(1, 10**12), st.floats(0, 1e9), losses, losses)


@given(st.builds(Curve, st.lists(points).map(tuple), st.sampled_from(["budget", "lost"]), st.floats(0, 1e9)))
def test_a_curve_goes_through_json_and_back(curve):
    assert Curve.of_json(json.loads(json.dumps(curve.to_json(), allow_nan=False))) == curve
