"""``reverie ema``."""

import json

import torch

import reverie as rv
from reverie.recipes.runs import Run


def test_a_run_is_averaged_anew_and_measured_over_widths(reverie, digits, tmp_path):
    said = reverie("ema digits --std 0.2")
    assert said.code == 0 and "digits-ema-0.2" in said.out, said.err
    before, after = Run(digits).checkpoint, Run(tmp_path / "digits-ema-0.2").checkpoint
    a, b = before.tensors("ema"), after.tensors("ema")
    assert set(a) == set(b) and any(not torch.equal(a[key], b[key]) for key in a)
    assert rv.sample(rv.load(tmp_path / "digits-ema-0.2"), n=2, steps=2).shape == (2, 1, 28, 28)
    again = reverie("ema digits --std 0.2")
    assert again.code == 2 and "is there already" in again.err
    neither = reverie("ema digits")
    assert neither.code == 2 and "--std WIDTH" in neither.err


def test_the_curve_is_kept_and_shown_in_the_report(reverie, digits, monkeypatch):
    from reverie.recipes import averaging

    curve = averaging.curve
    monkeypatch.setattr(averaging, "curve", lambda run, n: curve(run, (0.05, 0.2), n=n))
    said = reverie("ema digits --curve --n 70")
    assert said.code == 0 and "0.05" in said.out and "0.2" in said.out, said.err
    kept = json.loads((digits / "ema.json").read_text())
    assert [row["std"] for row in kept["widths"]] == [0.05, 0.2]
    assert reverie("report digits").code == 0
    assert "How long an average?" in (digits / "report.html").read_text()
