import sys

from matplotlib import image
from tests.lab.report.page_studies import study

from adabatch.lab.report.scaling import files


def test_the_files_of_a_study(tmp_path):
    names = files.write(study(), tmp_path)
    assert names == [
        "study.png", "study-speedup.png", "study-cost.png", "study-seconds.png", "study-trade.png",
        "study-curves.png", "study.csv", "study-runs.csv", "study-fits.csv", "study-curves.csv",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert image.imread(tmp_path / files.PICTURE).shape[0] > 400
    assert (tmp_path / "study.csv").read_text().startswith("task,model,fraction,lr_rule,loss,target,batch_size,lr,")


def test_without_matplotlib_there_are_the_csv_files(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert files.write(study(), tmp_path) == ["study.csv", "study-runs.csv", "study-fits.csv", "study-curves.csv"]
