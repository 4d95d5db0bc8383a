"""The notebooks run to their end; training in rows compiles once, drops next to nothing and learns.

The tests run them in the small setting. As a script, this file trains one seed. Given the names of
notebooks, it runs them and stores their output, which must be small enough to be committed.
"""

import base64
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
TRAINING = "02_train_ijepa.ipynb"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
SMALL = {"JEPA_MASKS_NOTEBOOKS": "small"}
REPORT = """
import json
print(json.dumps({
    "compilations": traces.count(ROWS[0]),
    "dropped": dropped,
    "computed": computed,
    "flops": flops,
    "losses": [[float(loss) for loss in losses[seed]] for seed in range(SEEDS)],
    "controls": [{name: float(loss) for name, loss in values.items()} for values in compared],
    "accuracy": [accuracy[seed] for seed in range(SEEDS)],
}))
"""


def execute(name, folder, *, environment=None, last_cell=None):
    """Runs a notebook in the folder, with one cell more if it is given, and returns it."""
    for package in ("ipykernel", "matplotlib", "optax", "sklearn"):
        pytest.importorskip(package)
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    if last_cell is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(last_cell))
    client = nbclient.NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        record_timing=False,
    )
    client.execute(env=os.environ | (environment or {}))
    return notebook


def printed(notebook):
    """Returns what the last cell printed."""
    return "".join(output.get("text", "") for output in notebook.cells[-1].outputs)


def mean(values):
    return sum(values) / len(values)


def check_training(report):
    cut, lists, rows = "cut to the shortest", "padded lists", "rows of two"
    dropped, computed = report["dropped"], report["computed"]
    assert report["compilations"] == 1
    assert dropped[rows] < 0.003
    assert dropped[lists] < 0.003
    assert dropped[cut] > 0.2
    assert 1 <= computed[rows] < 0.9 * computed[lists]
    assert report["flops"][1] < report["flops"][0]
    assert report["losses"]
    for losses in report["losses"]:
        part = max(1, len(losses) // 10)
        assert mean(losses[-part:]) < mean(losses[:part])


def test_there_are_three_notebooks():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebook_holds_the_output_of_every_run_cell_and_is_small(name):
    path = FOLDER / name
    cells = json.loads(path.read_text())["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "image/jpeg"} & kinds
    assert path.stat().st_size < 1e6


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name != TRAINING])
def test_notebook_runs_to_its_end(name, tmp_path):
    notebook = execute(name, tmp_path, environment=SMALL, last_cell="print('end')")
    assert printed(notebook) == "end\n"


@pytest.mark.slow
def test_training_compiles_its_step_once_and_the_loss_falls(tmp_path):
    notebook = execute(TRAINING, tmp_path, environment=SMALL, last_cell=REPORT)
    check_training(json.loads(printed(notebook)))


def train():
    """Trains one seed; fails if the context goes unread or the probe gains nothing."""
    with tempfile.TemporaryDirectory() as folder:
        one_seed = {"JEPA_MASKS_NOTEBOOKS": "one seed"}
        notebook = execute(TRAINING, folder, environment=one_seed, last_cell=REPORT)
    report = json.loads(printed(notebook))
    check_training(report)
    for losses in report["controls"]:
        print("losses", losses)
        if losses.pop("own context") >= min(losses.values()):
            sys.exit("the context of another digit or image, or none, predicts the targets as well")
    for accuracy in report["accuracy"]:
        print("accuracy", *(f"{value:.3f}" for value in accuracy))
        if accuracy[-1] <= accuracy[0]:
            sys.exit("the pre-trained encoder is no better than the untrained one")


def store(name):
    """Runs a notebook and stores its output, with photographs as JPEG."""
    import nbformat
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(name, folder)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                png, jpeg = base64.b64decode(output.data["image/png"]), io.BytesIO()
                Image.open(io.BytesIO(png)).convert("RGB").save(jpeg, "jpeg", quality=75)
                if len(jpeg.getvalue()) < len(png) / 2:  # A chart is smaller and sharper as PNG.
                    output.data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()
                    del output.data["image/png"]
    nbformat.write(notebook, FOLDER / name)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        store(name)
    if not sys.argv[1:]:
        train()
