"""The package as a whole: what it imports, what it ships, what it must not mention."""

import ast
import importlib.util
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import reverie
from reverie.nets import NETWORKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "reverie"
HEAVY = ("torch", "numpy", "PIL", "yaml", "rich", "tyro", "sklearn", "scipy", "matplotlib", "torchmetrics")

NETS = {config.__name__ for config in NETWORKS} | {name for _, name in NETWORKS.values()}
HOMES = {f"reverie.nets.{module}" for module, _ in NETWORKS.values()}
OWN_TASKS = {
    "adapt/encoder_config.py",
    "adapt/looking.py",
    "align/config.py",
    "align/diffae.py",
    "diffusion/config.py",
    "measure/config.py",
}
"""Files of the tasks of the encoder, which is no denoiser's network: a classifier's, a diffusion auto-encoder's, a picture-text model's, an
encoder's of adapters."""


def networks_in(source: str) -> set[str]:
    """Networks that a file takes from :mod:`reverie.nets` by the name of their class or configuration, or their modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module)) if module in HOMES:
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)) if module.startswith("reverie.nets"):
                found |= {a.name for a in node.names if a.name in NETS or f"{module}.{a.name}" in HOMES}
            case ast.Import():
                found |= {alias.name for alias in node.names if alias.name in HOMES}
            case ast.Attribute(value=ast.Name(id="nets" | "config"), attr=name) if name in NETS:
                found.add(name)
    return found


def loaded_after(code: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after running `code`."""
    report = "import sys; print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_torchvision_is_absent():
    assert importlib.util.find_spec("torchvision") is None


def test_version_is_the_one_in_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert reverie.__version__ == project["version"]


def test_import_loads_nothing_heavy():
    assert not loaded_after("import reverie").intersection(HEAVY)


def test_help_loads_nothing_heavy():
    assert not loaded_after("from reverie.cli import main; main(['--help'])").intersection(HEAVY)


def test_first_use_loads_torch():
    assert "torch" in loaded_after("import reverie; reverie.Cond")


@pytest.mark.parametrize("name", reverie.__all__)
def test_every_public_name_resolves(name: str):
    assert getattr(reverie, name) is not None


@pytest.mark.parametrize("room", ["adapt", "align", "diffusion", "distill", "measure", "read", "recipes"])
def test_no_module_hides_a_name_of_its_room(room: str):
    """Importing the module ``room.name`` would put it in the place of a function ``name`` that is imported on first use."""
    room = getattr(reverie, room)
    modules = {module.name for module in pkgutil.iter_modules(room.__path__)}
    assert modules and not modules & set(room._HOME)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        _ = reverie.smaple


def test_dir_lists_the_public_names():
    assert dir(reverie) == sorted(reverie.__all__)


def test_bundled_data_stays_small():
    bundled = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}]
    assert sum(path.stat().st_size for path in bundled) < 5_000_000


def test_nothing_mentions_a_machine_or_a_registry():
    folders = ("work", "tmp", "home", "root", "Users", "opt")
    hosts = ("pythonhosted", "pypi.org", "download.pytorch", "npmjs")
    forbidden = re.compile(rf"(?<![\w.])/({'|'.join(folders)})/\w|" + "|".join(f"{h[:-1]}[{h[-1]}]" for h in hosts))
    assert forbidden.search("see /" + "work/x") and forbidden.search("pypi" + ".org")

    texts = {".py", ".md", ".toml", ".txt", ".yaml", ".json", ".html", ".css", ".js", ""}
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]  # a worktree has such a file
    for folder in (".ci", "bench", "docs", "src", "tests"):
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    skip = {"_build", "__pycache__"}
    guilty = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in files
        if path.suffix in texts and not skip.intersection(path.parts) and path != Path(__file__)
        if (match := forbidden.search(path.read_text(encoding="utf-8", errors="ignore")))
    ]
    assert not guilty


@pytest.mark.parametrize("page", ["docs/concepts/algebra.md"])
def test_examples_run(page: str):
    """The Python of these pages runs top to bottom, apart from what needs a trained run."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(block for block in blocks if "RUN" not in block)
    assert "GaussianMixture" in code
    exec(compile(code, page, "exec"), {})


def test_networks_are_named_by_nets_bridge_and_their_own_task_only():
    bad = "from reverie.nets.unet import Stage\nfrom reverie.nets.config import CONFIGS, DiTConfig\nnets.UNet(3)\nimport reverie.nets.jit"
    assert networks_in(bad) == {"Stage", "DiTConfig", "UNet", "reverie.nets.jit"}
    assert networks_in("from reverie.nets import DiT, build, mmdit, taps") == {"DiT", "mmdit"}

    files = {path.relative_to(PACKAGE).as_posix(): networks_in(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert {"bridge", "nets"} <= {name.partition("/")[0] for name, found in files.items() if found}
    wrong = {name: found for name, found in files.items() if found and not name.startswith(("nets/", "bridge/"))}
    assert set(wrong) == OWN_TASKS, wrong
    assert set().union(*wrong.values()) == {"Encoder", "EncoderConfig"}
