"""Names that were never learned: what a trained denoiser says inside a mask carries over to new company of shape and colour."""

import pytest
import scenery
import torch
from torch import nn
from torch.nn import functional as F

import reverie as rv
from reverie.read import untrained
from reverie.read.odise import Naming, scenes
from reverie.read.odise.masks import inside

SITES = ["up.0.0.in", "up.1.0.in", "up.2.0.in"]
KNOWN, EVERY = scenes.vocabulary(new=False), scenes.vocabulary()


@pytest.fixture(scope="module", params=["stored", pytest.param("anew", marks=pytest.mark.slow)])
def trained(request, tmp_path_factory):
    file = scenery.FILE
    if request.param == "anew":
        file = tmp_path_factory.mktemp("scenery") / scenery.FILE.name
        scenery.save(scenery.train(), file)
    assert file.stat().st_size < 2**20
    return scenery.load(file)


def look(denoise, start, count, new=False):
    """What the denoiser says inside the true masks of things (N, D), and their categories (N,)."""
    batch = scenes.scenes(start, count, new=new)
    maps = rv.read.features(denoise, batch.x, SITES, t=0.05, pool=None)
    masks = batch.extra["masks"][:, :2]
    size = masks.shape[-2:]
    found = [inside(F.interpolate(maps[s], size, mode="bilinear", align_corners=False), masks) for s in SITES]
    return torch.cat(found, -1).flatten(0, 1), batch.extra["categories"][:, :2].flatten()


def learned(denoise, embed, steps=250):
    """Share named right, among all names: of things whose names were learned, and of those whose names were not."""
    x, y = look(denoise, 0, 300)
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    naming = Naming(32, KNOWN.embeddings.shape[1])
    solver = torch.optim.AdamW([*embed.parameters(), *naming.parameters()], 5e-3, weight_decay=0.5)
    rng = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=rng)
        loss = F.cross_entropy(naming(embed((x[rows] - mean) / deviation)[None], KNOWN)[0], y[rows])
        solver.zero_grad()
        loss.backward()
        solver.step()
    right = {}
    with torch.no_grad():
        for name, new in (("seen", False), ("new", True)):
            asked, truth = look(denoise, 10_000, 100, new)
            said = naming(embed((asked - mean) / deviation)[None], EVERY)[0, :, :-1].argmax(1)
            right[name] = (said == truth).double().mean().item()
    return right


def test_new_things_are_named_by_a_trained_denoiser_and_not_by_an_untrained_one(trained):
    """Chance is one of nineteen; colour alone would get a third or less."""
    width = look(trained, 0, 1)[0].shape[1]
    found = {}
    for name, model in (("trained", trained), ("untrained", untrained(trained))):
        torch.manual_seed(0)
        found[name] = learned(model, nn.Linear(width, 32))
    assert found["trained"]["new"] >= 0.8, found
    assert found["untrained"]["new"] <= found["trained"]["new"] - 0.1, found
    assert found["trained"]["seen"] >= 0.9, found


def test_a_new_name_is_no_name_of_training():
    """Taught that nothing is ever called by them, a head would never say the new names: 0 % of new things."""
    assert not set(map(tuple, KNOWN.names)) & {tuple(EVERY.names[k]) for k in scenes.NEW}
    assert torch.equal(EVERY.embeddings[: len(KNOWN.names)], KNOWN.embeddings)
    assert not set(scenes.scenes(0, 200).extra["categories"].flatten().tolist()) & set(scenes.NEW)
    assert set(scenes.scenes(0, 200, new=True).extra["categories"][:, :2].flatten().tolist()) == set(scenes.NEW)
