"""Features: the same as single calls by hand, whatever the batch, the noise, and where they are kept."""

from pathlib import Path

import pytest
import torch
from torch import nn

import reverie as rv
from reverie.core.condition import Entry
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError
from reverie.core.files import read_about
from reverie.core.noise import Tape
from reverie.core.schedules import Flow
from reverie.nets import DiT, DiTConfig, UNet, UNetConfig, taps
from reverie.read.maps import as_map
from reverie.read.probes.finetune import finetune


def test_a_cell_is_what_one_call_reads(unet, images):
    found = rv.read.features(unet, images, ["middle.0", "up.0.1"], t=[0.1, 0.4], noise="fresh", pool=None, seed=5)
    noise = Tape([(5, i) for i in range(10)]).draw("features", 0, (1, 8, 8))
    for t in (0.1, 0.4):
        point = unet.schedule.point(t)
        read = taps.record(unet, ["middle.0", "up.0.1"])(point.alpha * images + point.sigma * noise, point).features
        for site in ("middle.0", "up.0.1"):
            torch.testing.assert_close(found[site, t], read[site], rtol=1e-5, atol=1e-5)


def test_the_batch_decides_nothing(unet, images):
    whole, parts = (
        rv.read.features(unet, images, "up.0.0", logsnr=2.0, noise="fresh", batch_size=size) for size in (10, 3)
    )
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)
    assert whole.shape == (10, 16)


def test_kinds_of_noise(unet, images):
    twins = images[:1].expand(4, -1, -1, -1)

    def read(noise, seed=0):
        return rv.read.features(unet, twins, "middle.0", t=0.5, noise=noise, seed=seed)

    assert (read("shared") - read("shared")[0]).abs().max() < 1e-6
    assert (read("fresh")[0] - read("fresh")[1]).abs().max() > 1e-3
    assert (read("shared") - read("shared", seed=1)).abs().max() > 1e-3
    torch.testing.assert_close(read(1), read("fresh"))
    assert read(8).std(0).mean() < 0.7 * read(1).std(0).mean()  # the mean over noises varies less, √8 in the limit
    clean = rv.read.features(unet, twins, "middle.0", t=0.5, noise=None)
    point = unet.schedule.point(0.5)
    torch.testing.assert_close(clean, taps.features(unet, ["middle.0"], point.alpha * twins, point)["middle.0"].mean((2, 3)))  # fmt: skip


def test_the_call_ends_after_the_last_site(unet, images):
    ran = []
    handles = [unet.net.up[0][0].register_forward_hook(lambda *_: ran.append("up.0.0")),
               unet.net.middle[1].register_forward_hook(lambda *_: ran.append("middle.1"))]  # fmt: skip
    rv.read.features(unet, images, "middle.1", t=0.2)
    assert ran == ["middle.1"]
    rv.read.features(unet, images, "up.0.1", t=0.2)
    assert "up.0.0" in ran
    for handle in handles:
        handle.remove()


def test_pooling(unet, images):
    dense = rv.read.features(unet, images, "up.1.0", t=0.2, pool=None)
    assert dense.shape == (10, 8, 8, 8)
    torch.testing.assert_close(rv.read.features(unet, images, "up.1.0", t=0.2), dense.mean((2, 3)))
    four = rv.read.features(unet, images, "up.1.0", t=0.2, pool=2)
    torch.testing.assert_close(four[:, :, 1, 0], dense[:, :, 4:, :4].mean((2, 3)))


def test_tokens_lie_on_their_grid(dit):
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    found = rv.read.features(dit, x, "blocks.1", t=0.3, pool=None)
    assert found.shape == (2, 16, 4, 4)
    tokens = torch.arange(17.0)[None, :, None]  # one more in front, which is no place
    assert as_map(tokens, (8, 8))[0, 0].tolist() == torch.arange(1.0, 17.0).reshape(4, 4).tolist()


def test_streamed_equals_kept_and_goes_on_where_it_stopped(unet, images, tmp_path: Path):
    how = {"logsnr": [4.0, 0.0], "noise": "fresh", "batch_size": 2}
    kept = rv.read.features(unet, images, ["middle.0", "up.1.1"], **how)
    stored = rv.read.features(unet, images, ["middle.0", "up.1.1"], **how, out=tmp_path / "f", shard=4)
    for cell in kept:
        torch.testing.assert_close(stored[cell], kept[cell])
    torch.testing.assert_close(stored.rows(("up.1.1", 0.0), range(3, 9)), kept["up.1.1", 0.0][3:9])

    files = sorted((tmp_path / "f").glob("part-*"))
    assert len(files) == 3
    times = [file.stat().st_mtime_ns for file in files]
    assert read_about(files[1]) == {"what": "features", "rows": [4, 8]}
    files[1].write_bytes(files[1].read_bytes()[:50])
    with pytest.raises(
        RunError, match=r"part-00000004\.safetensors is damaged: .*Remove it and read the features again"
    ):
        stored.rows(("middle.0", 0.0), range(3, 5))
    files[1].unlink()
    with pytest.raises(RunError, match="4 of 10 pictures"):
        rv.read.Stored.open(tmp_path / "f")
    again = rv.read.features(unet, images, ["middle.0", "up.1.1"], **how, out=tmp_path / "f", shard=4)
    assert [f.stat().st_mtime_ns for f in (files[0], files[2])] == [times[0], times[2]]
    torch.testing.assert_close(again["middle.0", 4.0], kept["middle.0", 4.0])
    torch.testing.assert_close(rv.read.Stored.open(tmp_path / "f")["middle.0", 0.0], kept["middle.0", 0.0])
    with pytest.raises(InputError, match=r"seed 0 \(now 1\)"):
        rv.read.features(unet, images, ["middle.0", "up.1.1"], **how, seed=1, out=tmp_path / "f", shard=4)
    with pytest.raises(InputError, match="model"):
        other = rv.read.untrained(unet, seed=9)
        rv.read.features(other, images, ["middle.0", "up.1.1"], **how, out=tmp_path / "f", shard=4)


def test_a_data_set_is_read_as_its_pictures(unet):
    data = rv.data.load("digits8", "test")
    pictures = data.batch(range(len(data))).x
    torch.testing.assert_close(
        rv.read.features(unet, data, "middle.0", t=0.1, batch_size=50),
        rv.read.features(unet, pictures, "middle.0", t=0.1, batch_size=50),
    )


def test_attention_maps(dit):
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    found = rv.read.attention(dit, x, "blocks.1.attention", t=0.3, cond=rv.Cond(label=1))
    maps = found["blocks.1.attention"]
    assert maps.shape == (2, 2, 16, 16)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, 16))
    assert maps.std() > 1e-6
    with pytest.raises(InputError, match="no attention"):
        rv.read.attention(dit, x, "blocks.1", t=0.3)


def test_maps_of_any_module():
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 2, 1))
    x = torch.randn(3, 1, 8, 8)
    found = rv.read.of_module(encoder, x, ["0", "2"])
    torch.testing.assert_close(found["0"], encoder[0](x))
    torch.testing.assert_close(found["2"], encoder(x))
    with pytest.raises(InputError, match="unknown site"):
        rv.read.of_module(encoder, x, ["7"])


def test_a_model_of_codes_is_read_and_tuned_by_pictures():
    """Pictures of 16x16 go in, though what is diffused are codes of 4x4."""
    pictures = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    space = rv.spaces.PatchPCA(1, 4, 3).normalise(pictures)
    net = DiT(DiTConfig(patch=1, width=16, depth=2, heads=2), channels=3, size=4)
    denoise = rv.read.untrained(NetDenoiser(net.eval(), Flow(), "flow", shape=(3, 4, 4), space=space))
    found = rv.read.features(denoise, pictures, "blocks.0", t=0.2, noise=None, pool=None)
    point = denoise.schedule.point(0.2)
    by_hand = taps.features(denoise, ["blocks.0"], point.alpha * space.encode(pictures), point)["blocks.0"]
    torch.testing.assert_close(found, as_map(by_hand, (4, 4)))
    looked = rv.read.attention(denoise, pictures, "blocks.0.attention", t=0.2)["blocks.0.attention"]
    assert looked.shape == (6, 2, 16, 16)
    tuned = finetune(denoise, pictures, torch.arange(6) % 2, site="blocks.0", epochs=1)
    assert tuned(pictures).shape == (6, 2)
    with pytest.raises(InputError, match="16, 16"):
        rv.read.attention(denoise, space.encode(pictures), "blocks.0.attention", t=0.2)


def test_where_a_place_listens_in_a_text():
    """Cross-attention: places of the picture by words, which sum to 1; padding is never listened to."""
    net = UNet(
        UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, context=6, length=5),
        channels=1,
        size=8,
    )
    denoise = rv.read.untrained(NetDenoiser(net.eval(), Flow(), "flow", shape=(1, 8, 8)))
    text = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    site = "middle.0.attention.blocks.0.cross"
    assert site in taps.sites(denoise), taps.sites(denoise)
    found = rv.read.attention(
        denoise, torch.rand(2, 1, 8, 8) * 2 - 1, site, t=0.3, cond=rv.Cond(text=Entry.of(text, mask)), noise=2
    )
    assert found[site].shape == (2, 2, 16, 5)
    torch.testing.assert_close(found[site].sum(-1), torch.ones(2, 2, 16))
    assert not found[site][0, :, :, 3:].any() and found[site][1, :, :, 3:].min() > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sites": "middel.0"}, "middle.0"),
        ({"images": torch.rand(2, 1, 8, 8)}, r"\[0, 1\]"),
        ({"images": torch.rand(2, 1, 8, 8) * 255}, "scale them"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "uint8"),
        ({"images": torch.zeros(2, 3, 8, 8)}, "1, 8, 8"),
        ({"images": torch.zeros(0, 1, 8, 8)}, "length 0"),
        ({"images": torch.full((1, 1, 8, 8), torch.nan)}, "not finite"),
        ({"noise": "frehs"}, "frehs"),
        ({"noise": 0}, "how many"),
        ({"t": 1.5}, "0 .data. to 1"),
        ({"logsnr": 3.0}, "logsnr or as t"),
        ({"t": None}, "logsnr or as t"),
        ({"pool": 0}, "at least 1"),
        ({"cond": rv.Cond(label=[1, 2, 3])}, "3 pictures, there are 2"),
    ],
)
def test_bad_input(unet, given, said):
    arguments = {"images": torch.zeros(2, 1, 8, 8), "sites": "middle.0", "t": 0.5, **given}
    with pytest.raises(InputError, match=said):
        rv.read.features(unet, arguments.pop("images"), arguments.pop("sites"), **arguments)


def test_a_guided_model_is_refused(dit):
    with pytest.raises(InputError, match="guided"):
        rv.read.features(rv.guide.cfg(dit, 2.0), torch.zeros(2, 3, 8, 8), "blocks.1", t=0.5, cond=rv.Cond(label=1))
