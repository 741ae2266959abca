"""``reverie reproduce``: what it says of input that cannot be used, and its table."""

import pytest
import torch
from PIL import Image

from reverie.cli import main
from reverie.cli.reproduce import show
from reverie.reproduce.ablation import Figure


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("l-dae --images 0", "at least 1"),
        ("l-dae --data nowhere", "nowhere"),
        ("l-dae --scale tiny --data plain", "one sub-folder a class"),
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
