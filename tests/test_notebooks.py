"""The notebooks run to their end; training in rows compiles once, drops next to nothing and learns.

The tests run them in the small setting. As a script, this file trains one seed.
"""

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
    "compilations": compilations,
    "tokens": {name: [int(count) for count in counts] for name, counts in tokens.items()},
    "losses": [[float(loss) for loss in losses[seed]] for seed in range(SEEDS)],
    "controls": [{name: float(loss) for name, loss in values.items()} for values in compared],
    "accuracy": [accuracy[seed] for seed in range(SEEDS)],
}))
"""


def execute(name, folder, *, environment, last_cell=""):
    """Runs a notebook in the folder, with one cell more, and returns what that cell prints."""
    for package in ("ipykernel", "matplotlib", "optax", "sklearn"):
        pytest.importorskip(package)
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(last_cell))
    client = nbclient.NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=os.environ | environment)
    return "".join(output.get("text", "") for output in notebook.cells[-1].outputs)


def mean(values):
    return sum(values) / len(values)


def check_training(report):
    compilations, tokens = report["compilations"], report["tokens"]
    host, lists, rows = (tokens[name] for name in ("host collator", "padded lists", "rows of two"))
    assert compilations["rows of two"] == compilations["padded lists"] == 1
    assert 1 < len(set(host)) <= compilations["host collator"]
    # The same masks in each step; the lists and the rows hold nearly all of their tokens.
    steps = min(len(lists), len(rows))
    assert mean(rows[:steps]) == pytest.approx(mean(lists[:steps]), rel=0.01)
    assert mean(host) < 0.9 * mean(rows)
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
    assert execute(name, tmp_path, environment=SMALL, last_cell="print('end')") == "end\n"


@pytest.mark.slow
def test_training_compiles_its_step_once_and_the_loss_falls(tmp_path):
    check_training(json.loads(execute(TRAINING, tmp_path, environment=SMALL, last_cell=REPORT)))


def main():
    """Trains one seed; fails if the context goes unread or the probe gains nothing."""
    with tempfile.TemporaryDirectory() as folder:
        one_seed = {"JEPA_MASKS_NOTEBOOKS": "one seed"}
        report = json.loads(execute(TRAINING, folder, environment=one_seed, last_cell=REPORT))
    check_training(report)
    for losses in report["controls"]:
        print("losses", losses)
        if losses.pop("own context") >= min(losses.values()):
            sys.exit("the context of another digit or image, or none, predicts the targets as well")
    for accuracy in report["accuracy"]:
        print("accuracy", *(f"{value:.3f}" for value in accuracy))
        if accuracy[-1] <= accuracy[0]:
            sys.exit("the pre-trained encoder is no better than the untrained one")


if __name__ == "__main__":
    main()
