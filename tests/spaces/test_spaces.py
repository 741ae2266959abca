"""Spaces: exact identities of principal components, and what a learned tokenizer must and cannot reach."""

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import reverie as rv
from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError
from reverie.core.schedules import Flow
from reverie.learn import Draws, Moment
from reverie.spaces import VQ, ConvVAE, PatchAE, PatchPCA, PatchVAE, SpaceConfig, build, load, save
from reverie.spaces.latent import cut, divergence, paste
from reverie.spaces.tokenizing import Tokenizing

NOW = Moment(0, 0, 100)


@pytest.fixture(scope="module")
def images():
    return rv.data.load("mnist5k").batch(range(600)).x


@pytest.fixture(scope="module")
def pca(images):
    return PatchPCA.fit(images, patch=4, dims=6)


def test_cutting_into_patches_keeps_neighbours_together_and_pastes_back(images):
    x = images[:2, :, :8, :8]
    patches = cut(x, 4)
    assert torch.equal(patches[:, :, 1, 0], x[:, :, 4:8, 0:4].flatten(1)) and torch.equal(paste(patches, 4), x)


def test_the_basis_is_orthonormal(pca):
    eye = pca.basis @ pca.basis.T
    torch.testing.assert_close(eye, torch.eye(16), atol=1e-6, rtol=0)


def test_basis_and_variances_are_those_of_another_implementation(pca, images):
    rows = cut(images, 4).movedim(1, -1).reshape(-1, 16).numpy()
    other = PCA().fit(rows.astype(np.float64))
    torch.testing.assert_close(
        pca.variances.double(),
        torch.from_numpy(other.explained_variance_ * (len(rows) - 1) / len(rows)),
        rtol=1e-5,
        atol=1e-9,
    )
    cosines = (pca.basis.double().numpy() * other.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1.0, atol=1e-5)
    np.testing.assert_allclose(pca.mean, other.mean_, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 6, 15])
def test_the_error_of_a_picture_is_the_energy_of_the_discarded_components(images, dims):
    space = PatchPCA.fit(images, 4, dims)
    error = (images - space.decode(space.encode(images))).double().square().sum() / len(images) / 49
    discarded = space.variances[dims:].double().sum()
    assert error.item() == pytest.approx(discarded.item(), rel=1e-5)
    assert error.item() != pytest.approx(space.variances[dims + 1 :].sum().item(), rel=1e-2)


def test_with_all_components_nothing_is_lost(images):
    space = PatchPCA.fit(images, 4, 16)
    torch.testing.assert_close(space.decode(space.encode(images)), images, atol=1e-5, rtol=0)


def test_codes_have_mean_zero_and_one_standard_deviation_for_all_channels(pca, images):
    z = pca.encode(images)
    assert z.shape == (600, 6, 7, 7) == (600, *pca.code_shape((1, 28, 28)))
    assert z.mean().abs() < 1e-5 and z.square().mean().item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), pca.variances[:6] / pca.scale**2, rtol=1e-4, atol=1e-6)
    shift, scale = pca.shift.clone(), pca.scale.clone()
    again = PatchPCA.fit(images, 4, 6).normalise(images)  # measured, where fit reads it off the eigenvalues
    torch.testing.assert_close(again.scale, scale, rtol=1e-5, atol=0)
    torch.testing.assert_close(again.shift, shift, atol=1e-5, rtol=0)


def test_noise_on_the_codes_is_noise_of_rank_d_in_the_picture(pca):
    """decode is affine: its Jacobian J on one patch gives the covariance J·Jᵀ of unit noise, which is scale²·VᵀV."""
    zero = torch.zeros(1, 6, 1, 1)
    steps = torch.eye(6)[:, :, None, None]
    jacobian = (pca.decode(steps) - pca.decode(zero)).flatten(1).T
    v = pca.basis[:6]
    torch.testing.assert_close(jacobian @ jacobian.T, pca.scale**2 * v.T @ v, atol=1e-5, rtol=0)
    assert torch.linalg.matrix_rank(jacobian @ jacobian.T, atol=1e-4) == 6
    noise = torch.randn(20_000, 6, 1, 1)
    sampled = (pca.decode(0.5 * noise) - pca.decode(zero)).flatten(1).T.cov()
    torch.testing.assert_close(sampled, 0.25 * pca.scale**2 * v.T @ v, atol=0.02 * pca.scale.item() ** 2, rtol=0)
    white = 0.25 * pca.scale**2 * torch.eye(16)
    assert (sampled - white).norm() > 10 * (sampled - 0.25 * pca.scale**2 * v.T @ v).norm()


def test_the_basis_keeps_lengths(pca, images):
    difference = images[:50] - images[50:100]
    torch.testing.assert_close(
        pca.rotate(difference).square().flatten(1).sum(1), difference.square().flatten(1).sum(1), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        pca.components(images[:50]) - pca.components(images[50:100]), pca.rotate(difference), atol=1e-5, rtol=0
    )
    cut_off = pca.rotate(difference)[:, :6].square().flatten(1).sum(1)
    assert (cut_off < 0.999 * difference.square().flatten(1).sum(1)).all()


def test_the_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, torch.exp(0.5 * log_variance)), normal(0.0, 1.0))
    torch.testing.assert_close(divergence(mean, log_variance), expected.flatten(1).sum(1))


class Nothing(Dataset):
    spec = DataSpec((1, 28, 28))

    def __len__(self):
        return 0

    def batch(self, positions):
        raise AssertionError


NOTHING = Nothing()


def learn(space, images, steps, lr):
    torch.manual_seed(0)
    task = Tokenizing(space, NOTHING, NOTHING)
    optimizer = torch.optim.Adam(space.parameters(), lr)
    for step in range(steps):
        x = images[torch.randint(len(images), (100,))]
        optimizer.zero_grad()
        sum(part.mean() for part in task.loss("space", Batch(x), Draws(0, 100 * step, 100), NOW).values()).backward()
        optimizer.step()
    return space.requires_grad_(False).normalise(images)


def error(space, images):
    return (images - space.decode(space.encode(images))).square().mean().item()


def test_a_linear_auto_encoder_finds_the_plane_of_the_principal_components(images, pca):
    """Baldi & Hornik 1989: the optimum is the same plane, so the error comes down to that of PCA and never below."""
    least = error(pca, images)
    space = learn(PatchAE(1, 4, 6), images, 300, 2e-2)
    assert least * 0.9999 < error(space, images) < 1.1 * least
    assert error(learn(PatchAE(1, 4, 3), images, 100, 2e-2), images) > 1.5 * least
    v = pca.basis[:6]
    u = space.decoder.weight.flatten(1)
    assert (u - v.T @ (v @ u)).norm() < 0.25 * u.norm()


def test_a_variational_code_is_pressed_towards_the_unit_normal(images):
    loose, tight = (learn(PatchVAE(1, 4, 6, kl=kl), images, 200, 1e-2) for kl in (1e-4, 1.0))
    assert error(loose, images) < 0.5 * error(tight, images)
    kl = [
        space.reconstruct(images[:100], torch.randn(100, 6, 7, 7))[1]["kl"].mean() / space.kl
        for space in (loose, tight)
    ]
    assert kl[0] > 5 * kl[1]


def test_a_convolutional_space_learns_and_its_codes_see_beyond_their_patch(images):
    torch.manual_seed(0)
    images = images[:100, :, 4:24, 4:24]
    space = ConvVAE(1, 4, 4, width=8)
    assert space.code_shape((1, 28, 28)) == (4, 7, 7)
    before = error(space.normalise(images), images)
    learn(space, images, 25, 1e-2)
    assert error(space, images) < 0.5 * before
    other = images[:1].clone()
    other[..., 4:8, 0:4] += 0.5
    assert (space.encode(other) - space.encode(images[:1]))[0, :, 0, 0].abs().max() > 1e-4
    patchwise = PatchAE(1, 4, 4)
    changed = (patchwise.encode(other) - patchwise.encode(images[:1]))[0].abs().amax(0) > 0
    assert changed.nonzero().tolist() == [[1, 0]]


@pytest.mark.parametrize("name", ["pca", "patch-ae", "patch-vae", "conv-ae", "conv-vae"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_space_in_half_precision_takes_and_gives_single(images, name, dtype):
    space = PatchPCA.fit(images, 4, 6) if name == "pca" else build(SpaceConfig(name=name, dims=6, width=8), 1)
    space.normalise(images)
    z = space.encode(images[:4])
    x = space.decode(z)
    assert space.code_shape((1, 28, 28)) == tuple(z.shape[1:]) and space.data_shape(tuple(z.shape[1:])) == (1, 28, 28)
    half = copy.deepcopy(space).to(dtype=dtype)
    assert half.scale.dtype == torch.float32 and torch.equal(half.scale, space.scale)
    for mine, exact in ((half.encode(images[:4]), z), (half.decode(z), x)):
        assert mine.dtype == torch.float32
        rounding = 8 * torch.finfo(dtype).eps * (name != "pca")  # principal components have no weights to cast
        assert (mine - exact).square().mean().sqrt() <= rounding * exact.std()


@pytest.mark.parametrize("name", ["pca", "patch-ae", "patch-vae", "conv-ae", "conv-vae", "vq", "multiscale-vq"])
def test_a_space_comes_back_from_its_file(tmp_path, images, name):
    space = PatchPCA.fit(images, 4, 6) if name == "pca" else build(SpaceConfig(name=name, dims=6, width=8), 1)
    space.normalise(images)
    save(space, tmp_path / "space.safetensors")
    again = load(tmp_path / "space.safetensors")
    assert type(again) is type(space) and again.settings == space.settings
    torch.testing.assert_close(again.decode(again.encode(images[:4])), space.decode(space.encode(images[:4])))
    content = (tmp_path / "space.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="damaged"):
        load(tmp_path / "short.safetensors")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.safetensors")


def test_a_denoiser_samples_inverts_and_learns_through_its_space(pca, images):
    torch.manual_seed(0)
    config = rv.nets.DiTConfig(patch=1, width=32, depth=1, heads=2)
    shape = pca.code_shape((1, 28, 28))
    net = rv.nets.build(config, channels=shape[0], size=shape[1:])
    denoise = NetDenoiser(net, Flow(), shape=shape, space=pca)
    drawn = rv.sample(denoise, n=3, steps=2)
    assert drawn.shape == (3, 1, 28, 28)
    assert error(pca, drawn) < 1e-10 < error(pca, images)  # what is drawn lies in the plane, pictures do not
    again = rv.sample(denoise, x=images[:2], start=1e-4, steps=1)
    torch.testing.assert_close(again, pca.decode(pca.encode(images[:2])), atol=2e-2, rtol=0)
    assert rv.invert(denoise, images[:2], steps=2).shape == (2, *shape)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda x: PatchPCA.fit(x, 4, 17), "16 components"),
        (lambda x: PatchPCA.fit(x, 5, 2), "multiples of 5"),
        (lambda x: PatchPCA.fit(torch.zeros(10, 1, 8, 8), 4, 2), "do not vary"),
        (lambda x: ConvVAE(1, 3, 2).encode(x), "multiples of 3"),
        (lambda x: VQ(1, 4, 2, codes=1), "at least 2 codes"),
        (lambda x: PatchPCA.fit(x, 4, 2).last, "closed form"),
        (lambda x: PatchAE(1, 4, 0), "at least 1"),
        (lambda x: PatchPCA.fit(x, 4, 2).encode(x.expand(-1, 3, -1, -1)), "1 channels"),
        (lambda x: PatchPCA.fit(x, 4, 2).decode(torch.zeros(1, 3, 7, 7)), r"\(B, 2, h, w\)"),
        (lambda x: PatchPCA.fit(x, 4, 2).reconstruct(x, x), "closed form"),
    ],
)
def test_what_does_not_fit_is_said(images, make, says):
    with pytest.raises(InputError, match=says):
        make(images[:20])
