"""Grids: what they unfold to, what is wrong with them, and that an interrupted one goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pfl.cli import main
from p2pfl.errors import UserError
from testnet import attacks
from testnet.experiments import conduct, journal, report, results, runner
from testnet.experiments.cells import Cell
from testnet.experiments.facts import BINS, Row
from testnet.experiments.grid import Grid, load

GRIDS = sorted(Path("bench/grids").glob("*.toml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_grids_that_come_along_can_be_run(path: Path) -> None:
    grid = load(path)
    assert grid.title != grid.name
    assert len({cell.key for cell in grid.cells}) == len(grid.cells)


def test_a_grid_is_every_combination_and_clean_cells_are_one(tmp_path: Path) -> None:
    text = """
    title = "t"
    [network]
    groups = 2
    [[sweep]]
    seeds = 2
    alphas = [0.1, 100]
    attacks = ["sign_flip", { name = "alie", jitter = 0.2 }]
    shares = [0.0, 0.25]
    """
    cells = load(written(tmp_path, text)).cells
    assert len(cells) == 2 * 2 * (2 + 1)
    clean = [cell for cell in cells if not cell.attacked]
    assert len(clean) == 4
    assert {cell.attack for cell in clean} == {""}
    assert {cell.options.get("jitter") for cell in cells if cell.attack == "alie"} == {0.2}


def test_untargeted_are_the_nine_of_the_field(tmp_path: Path) -> None:
    text = '[[sweep]]\nattacks = ["untargeted"]\nshares = [0.25]\n'
    assert {cell.attack for cell in load(written(tmp_path, text)).cells} == set(attacks.UNTARGETED)


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("[network]\nmember = 4\n", "has no member"),
        ('[network]\nmembers = "4"\n', "type int"),
        ("[network]\nmembers = 3\n", "4 to 16 members"),
        ("[network]\nseats = 1\n", "4 to 16 seats"),
        ('[[sweep]]\nmode = "flat"\n', "flat needs one of"),
        ('[[sweep]]\nattacks = ["sing_flip"]\nshares = [0.2]\n', "sing_flip"),
        ('[[sweep]]\nattacks = [{name="alie", zz=1}]\nshares = [0.2]\n', "zz"),
        ("[[sweep]]\nseeds = []\n", "must be a list that is not empty"),
        ("[rules]\nweight = 4\n", "has no weight"),
        ("title = ", "Invalid value"),
    ],
)
def test_a_grid_that_cannot_be_run_says_why(tmp_path: Path, text: str, because: str) -> None:
    with pytest.raises(UserError) as told:
        load(written(tmp_path, text))
    assert because in told.value.render()


# ---------------------------------------------------------------------------
# The journal.


def row(cell: Cell, **values: Any) -> Row:
    return Row(cell.key, json.loads(json.dumps(cell.__dict__)), p_honest=[0] * BINS, **values)


def some_grid(count: int) -> Grid:
    return Grid("some", "some grid", tuple(Cell(seed=seed) for seed in range(count)))


def test_what_was_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, asked = some_grid(4), list[list[str]]()

    def run_all(cells: list[Cell], **_: Any) -> Iterator[tuple[str, Row | str]]:
        asked.append([cell.key for cell in cells])
        yield cells[0].key, row(cells[0], accuracy=0.5, wall_s=1.0)
        yield cells[1].key, "ValueError: broken"
        if len(asked) == 1:
            raise KeyboardInterrupt

        yield from ((cell.key, row(cell, accuracy=0.5, wall_s=1.0)) for cell in cells[2:])

    monkeypatch.setattr(runner, "run_all", run_all)
    with pytest.raises(KeyboardInterrupt):
        conduct.run(grid, tmp_path / "r", conduct.Options())
    path = tmp_path / "r" / journal.NAME
    path.write_bytes(path.read_bytes() + b'{"row": {"key": "cut sho')
    after = conduct.run(grid, tmp_path / "r", conduct.Options())
    keys = [cell.key for cell in grid.cells]
    assert asked == [keys, keys[1:]]
    assert set(after.rows) == {keys[0], keys[1], keys[3]}
    assert after.failed == {keys[2]: "ValueError: broken"}
    assert journal.read(tmp_path / "r").rows.keys() == after.rows.keys()
    assert (tmp_path / "r" / "rows.csv").read_text(encoding="utf-8").count("\n") == 4


def test_another_grid_s_folder_is_refused(tmp_path: Path) -> None:
    journal.begin(tmp_path, some_grid(1))
    with pytest.raises(UserError, match="another grid"):
        journal.begin(tmp_path, Grid("other", "t", some_grid(1).cells))


def test_the_time_left_is_by_what_the_cells_that_are_left_cost() -> None:
    cells = (Cell(rounds=10), Cell(rounds=10, seed=2), Cell(mode="flat", rule="mean", rounds=10))
    progress = conduct.Progress(Grid("g", "t", cells), cells)
    assert progress.left_s() is None
    progress.take(cells[0].key, row(cells[0], wall_s=4.0))
    one = progress.left_s()
    progress.take(cells[2].key, row(cells[2], wall_s=1.0))
    two = progress.left_s()
    assert one is not None and two is not None and two < one
    assert conduct.left(3_725.4) == "1:02:05"


# ---------------------------------------------------------------------------
# Numbers.


def test_a_summary_adds_up() -> None:
    bad = Cell(attack="alie", share=0.25, seed=1)
    rows = [
        row(Cell(), honest_client_rounds=100, honest_alarms=1, accuracy=0.9),
        row(bad, honest_client_rounds=60, attackers=2, attackers_slashed=1, slashed_rounds=[3, -1],
            accuracy=0.8),
        row(Cell(mode="flat", rule="krum", attack="alie", share=0.25), attackers=2, accuracy=0.2),
    ]  # fmt: skip
    found = results.as_json(rows)
    assert (found["honest_client_rounds"], found["honest_slashed"]) == (160, 0)
    assert found["false_alarm_rate"] == pytest.approx(1 / 160)
    assert found["false_alarm_rate_clean"] == pytest.approx(1 / 100)
    assert (found["attackers"], found["attackers_slashed"]) == (2, 1)
    assert found["median_rounds_to_slash"] is None  # Half of them never were.
    assert (found["accuracy"], found["accuracy_clean"]) == (0.8, 0.9)
    assert found["by"]["rule"]["flat/krum"]["accuracy"] == 0.2
    assert set(found["by"]) == {"attack", "share", "alpha", "rule"}
    assert found["by"]["attack"]["alie"]["attackers"] == 2
    assert "| flat/krum" in results.table(rows)


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    made = journal.begin(tmp_path, some_grid(2))
    bad = Cell(attack="alie", share=0.25)
    counts = [0] * (BINS - 1) + [7]
    made.add(row(bad, attackers=1, excluded=[2], named=[-1], slashed_rounds=[3], curve=[0.1, 0.5],
                 p_attackers=counts, story=[(1, "case", "g0m1", "<audit>")], rounds_done=2))  # fmt: skip
    made.add(row(Cell(), curve=[0.2, 0.6], rounds_done=2))
    page = report.write(made).read_text(encoding="utf-8")
    assert page.count("<svg") == 7
    assert "&lt;audit&gt;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


# ---------------------------------------------------------------------------
# All of it.


def test_a_grid_runs_is_shown_and_keeps_its_failures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = """
    title = "tiny"
    [network]
    groups = 1
    rounds = 1
    [[sweep]]
    mode = "flat"
    seeds = 2
    aggregators = ["mean"]
    [[sweep]]
    mode = "flat"
    aggregators = ["mean"]
    network = { dataset = "nowhere" }
    """
    where = str(tmp_path / "r")
    code = main(["experiment", "run", str(written(tmp_path, text)), "--dir", where, "--jobs", "1", "--json"])
    out, _ = capfd.readouterr()
    told = json.loads(out)
    assert code == 1
    assert (told["cells"], told["failed"]) == (2, 1)
    assert (tmp_path / "r" / report.NAME).exists()
    assert main(["experiment", "show", where]) == 0
    assert "nowhere" in capfd.readouterr().out
