"""Recipes from YAML and back, and the ones that come along."""

import hashlib
import random
from dataclasses import replace

import pytest
import yaml

from reverie.core.errors import InputError
from reverie.diffusion.config import DenoisingConfig
from reverie.nets.config import DiTConfig, JiTConfig, MMDiTConfig, UNetConfig, UViTConfig
from reverie.recipes import serialisation, tasks
from reverie.recipes.recipe import Recipe


def test_what_is_left_out_has_its_default():
    assert serialisation.from_dict({}) == Recipe()
    assert serialisation.from_dict({"task": {"net": {"width": 96}}}).task.net == DiTConfig(width=96)


def test_the_name_of_the_network_chooses_its_keys():
    recipe = serialisation.from_dict({"task": {"net": {"name": "unet", "multipliers": [1, 2]}}})
    assert recipe.task.net == UNetConfig(multipliers=(1, 2)) and serialisation.describe(recipe.task) == "unet"


@pytest.mark.parametrize("name", tasks.names())
def test_the_name_of_the_task_chooses_its_keys(name: str, tmp_path):
    recipe = serialisation.from_dict({"task": name})
    assert recipe.task == tasks.config(name)() and type(recipe.sample) is recipe.task.Sample
    serialisation.write(recipe, tmp_path / "r.yaml")
    assert serialisation.load(tmp_path / "r.yaml") == recipe
    with pytest.raises(InputError, match=r"task\.wdth"):
        serialisation.from_dict({"task": {"name": name, "wdth": 3}})


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"'autoencodr'.*Did you mean 'autoencoder'"):
        serialisation.from_dict({"task": "autoencodr"})


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(task=DenoisingConfig(net=UNetConfig(multipliers=(1, 3))), seed=4, name="a")]
)
def test_round_trip(tmp_path, recipe: Recipe):
    recipe = replace(recipe, data=replace(recipe.data, classes=("Zoë", "b")))
    serialisation.write(recipe, tmp_path / "r.yaml")
    assert serialisation.load(tmp_path / "r.yaml") == recipe
    assert next(iter(yaml.safe_load((tmp_path / "r.yaml").read_text())["task"])) == "name"


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1", 1.0), ("0.5", 0.5)])
def test_numbers_as_people_write_them(tmp_path, text: str, value: float):
    (tmp_path / "r.yaml").write_text(f"train: {{lr: {text}}}")
    lr = serialisation.load(tmp_path / "r.yaml").train.lr
    assert lr == value and isinstance(lr, float)


def test_difference_names_every_key_that_differs_and_no_other():
    a = Recipe()
    b = replace(a, seed=3, task=DenoisingConfig(net=UNetConfig()))
    changes = {key: (old, new) for key, old, new in serialisation.difference(a, b)}
    assert serialisation.difference(a, a) == []
    assert changes["seed"] == (0, 3) and changes["net.name"] == ("dit", "unet") and changes["net.depth"] == (6, None)
    assert not any(key.startswith("train") for key in changes)


@pytest.mark.parametrize("name", serialisation.named())
def test_the_recipes_that_come_along_are_whole(name: str):
    assert serialisation.load(serialisation.find(name)).name in (name, "")


def test_demo_and_the_bundled_sets_have_recipes():
    assert {"demo", "emoji", "mnist5k"} <= set(serialisation.named())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train": {"keep": 0}}, "the recipe: train.keep is at least 1 .*; got 0"),
        ({"task": {"net": {"width": -4}}}, "the recipe: net.width is at least 1 .*; got -4"),
    ],
)
def test_numbers_out_of_range(values, says: str):
    with pytest.raises(InputError, match=says):
        serialisation.from_dict(values)


def test_every_flipped_bit_of_a_runs_recipe_is_noticed_or_changes_nothing(tmp_path):
    path, recipe = tmp_path / "recipe.yaml", Recipe(name="x", task=DenoisingConfig(net=UNetConfig()))
    serialisation.write(recipe, path)
    whole, rng = path.read_bytes(), random.Random(0)
    noticed = 0
    for place in rng.sample(range(8 * len(whole)), 150):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(data))
        try:
            assert serialisation.load(path, sealed=True) == recipe, place
        except InputError:
            noticed += 1
    assert noticed > 145
    path.write_bytes(whole)
    assert serialisation.load(path, sealed=True) == recipe


EARLIER = {
    "unet": (
        "{scaled: false, rescale: 0.5, project: true, filter: [1, 3, 3, 1], depths: [1, 2], variance: true, corner: true}",
        UNetConfig(
            scale_shift_norm=False,
            skip_scale=0.5,
            resample_proj=True,
            resample_filter=(1, 3, 3, 1),
            transformer_depth=(1, 2),
            learn_sigma=True,
            asymmetric_padding=True,
        ),
    ),
    "dit": ("{variance: true, endpoint: true}", DiTConfig(learn_sigma=True, endpoint=True)),
    "uvit": ("{smooth: false, depth: 3}", UViTConfig(final_conv=False, depth=3)),
    "mmdit": ("{norm: false, reach: 8}", MMDiTConfig(qk_norm=False, pos_embed_max_size=8)),
    "jit": ("{told: 3, told_from: 1}", JiTConfig(context_tokens=3, context_start=1)),
}
"""Options of networks as earlier runs wrote them."""


@pytest.mark.parametrize("layout", ["task: {name: denoising, net: NET}\n", "net: NET\n"])
@pytest.mark.parametrize("name", EARLIER)
def test_a_run_in_the_earlier_words_of_its_network_opens(tmp_path, name: str, layout: str):
    options, expected = EARLIER[name]
    text = layout.replace("NET", options.replace("{", f"{{name: {name}, "))
    (tmp_path / "recipe.yaml").write_text(f"{text}{serialisation.SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n")
    recipe = serialisation.load(serialisation.find(str(tmp_path)), sealed=True)
    assert recipe.task.net == expected != type(expected)()


def test_earlier_words_are_those_of_their_network_and_never_beside_todays():
    for net, key in (
        ({"name": "uvit", "corner": True}, "corner"),
        ({"told": 3, "context_tokens": 4, "name": "jit"}, "told"),
    ):
        with pytest.raises(InputError, match=rf"unknown key task\.net\.{key};"):
            serialisation.from_dict({"task": {"net": net}})


def test_a_recipe_that_was_changed_in_its_run_says_so_and_a_copy_may_be_changed(tmp_path):
    path = tmp_path / "recipe.yaml"
    serialisation.write(Recipe(), path)
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(InputError, match=r"recipe\.yaml is not as it was written.*remove that line"):
        serialisation.load(path, sealed=True)
    assert serialisation.load(path).seed == 1
    path.write_text(path.read_text().rpartition(serialisation.SEAL)[0])
    assert serialisation.load(path, sealed=True).seed == 1, "the line is removed, or the recipe older than the line"
