"""``reverie reproduce``: what it says of input that cannot be used, and its table."""

import pytest
import torch
from PIL import Image

from reverie.cli import main
from reverie.cli.reproduce import show, show_ablation
from reverie.reproduce import ddpm
from reverie.reproduce.ablation import Figure


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("l-dae --images 0", "at least 1"),
        ("l-dae --data nowhere", "nowhere"),
        ("l-dae --scale tiny --data plain", "one sub-folder a class"),
        ("ddpm --images 0", "at least 1"),
        ("ddpm --scale tiny --data nowhere", "nowhere"),
        ("ddpm --dims", "l-dae"),
    ],
)
def test_what_cannot_be_used_is_said(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    for i in range(30):
        Image.fromarray((torch.rand(8, 8) * 255).byte().numpy()).save(tmp_path / "plain" / f"{i}.png")
    assert main(["reproduce", *arguments.split()]) == 2
    assert says in capsys.readouterr().err


def test_the_table_has_the_papers_figures_beside_ours(capsys):
    show([Figure("patch PCA", 41.25, 1.5, 65.1), Figure("pixels", 30.0, 1.0)], "l-DAE", "small")
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "patch PCA" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["patch PCA", "41.2", "1.5", "65.1", ""]


def test_the_ablation_has_the_papers_figures_beside_ours_and_no_figure_where_it_has_none(capsys):
    figures = [(row, ddpm.Figure(row.name, 0.5, 2.0, 3.25, 0.125, 7.0)) for row in ddpm.ROWS]
    show_ablation(figures, "DDPM", "small")
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "50.0 %" in line]
    found = [[cell.strip() for cell in row] for row in rows]
    assert [row[0] for row in found] == ["μ̃"] * 3 + ["ε"] * 3
    assert all(row[2:7] == ["50.0 %", "2.0", "3.25", "0.12", "7"] for row in found)
    assert [row[7] for row in found] == ["23.69", "13.22", "–", "–", "13.51", "3.17"]
    assert [row[8] for row in found] == ["7.28", "8.06", "–", "–", "7.67", "9.46"]
