"""The notebooks run to their end, and training compiles each step once and lowers the loss.

Here they run in the small setting, marked slow; as a script, the training one with one seed.
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
PACKAGES = [
    "nbclient",
    "nbformat",
    "flax",
    "ipykernel",
    "optax",
    "orbax.checkpoint",
    "sklearn",
    "tqdm",
]
SMALL = {"JEPA_MASKS_NOTEBOOKS": "small"}
REPORT = """
import json
print(json.dumps({
    "compilations": compiled,
    "losses": {f"{name} {seed}": run.history[:, 0].tolist() for (name, seed), run in runs.items()},
    "controls": {f"{name} {seed}": losses for (name, seed), losses in compared.items()},
    "accuracy": accuracy,
}))
"""


def execute(name, folder, *, environment, last_cell=""):
    """Runs a notebook in the folder, with one cell more, and returns what that cell prints."""
    import nbclient
    import nbformat

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
    assert report["compilations"] == {"ijepa_masks": 1, "random_mask": 1}
    assert report["losses"]
    for losses in report["losses"].values():
        part = max(1, len(losses) // 10)
        assert mean(losses[-part:]) < mean(losses[:part])


def test_there_are_three_notebooks():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebook_holds_the_output_of_every_run_cell_and_is_small(name):
    path = FOLDER / name
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "image/jpeg"} & kinds
    assert path.stat().st_size < 1.5e6


@pytest.fixture
def packages():
    for package in PACKAGES:
        pytest.importorskip(package, reason="runs in the extra `notebooks`")


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name != TRAINING])
def test_notebook_runs_to_its_end(name, tmp_path):
    assert execute(name, tmp_path, environment=SMALL, last_cell="print('end')") == "end\n"


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_training_compiles_each_step_once_and_the_loss_falls(tmp_path):
    check_training(json.loads(execute(TRAINING, tmp_path, environment=SMALL, last_cell=REPORT)))
    assert not list(tmp_path.iterdir()), "a finished run leaves no checkpoint"


def main():
    """Trains one seed; fails if the context goes unread or the probe gains nothing."""
    with tempfile.TemporaryDirectory() as folder:
        one_seed = {"JEPA_MASKS_NOTEBOOKS": "one seed"}
        report = json.loads(execute(TRAINING, folder, environment=one_seed, last_cell=REPORT))
    check_training(report)
    for run, losses in report["controls"].items():
        print(run, losses)
        if losses.pop("own context") >= min(losses.values()):
            sys.exit("the context of another digit or image, or none, predicts the targets as well")
    for name, values in report["accuracy"].items():
        print(f"{name:18} {mean(values):.3f}")
    if mean(report["accuracy"]["ijepa_masks"]) <= mean(report["accuracy"]["untrained encoder"]):
        sys.exit("the pre-trained encoder is no better than the untrained one")


if __name__ == "__main__":
    main()
