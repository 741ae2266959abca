"""JiT against the port of the authors' code in azula."""

import sys
from types import ModuleType

import pytest
import torch

from reverie.core.condition import Cond
from reverie.nets import JiTConfig, build

pytest.importorskip("azula")

NAMES = {
    "time.inner": "t_embedder.mlp.0", "time.outer": "t_embedder.mlp.2", "label.table": "y_embedder.embedding_table",
    "squeeze": "x_embedder.proj1", "embed": "x_embedder.proj2", "norm": "final_layer.norm_final", "out": "final_layer.linear",
    "modulation": "final_layer.adaLN_modulation.1",
}  # fmt: skip
IN_BLOCK = {
    "norm_attention": "norm1", "norm_mlp": "norm2", "modulation": "adaLN_modulation.1", "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "attention.norm_q": "attn.q_norm", "attention.norm_k": "attn.k_norm", "mlp.inner": "mlp.w12", "mlp.outer": "mlp.w3",
}  # fmt: skip


def theirs_under_our_names(theirs, depth):
    state = theirs.state_dict()
    names = NAMES | {f"blocks.{i}.{a}": f"blocks.{i}.{b}" for i in range(depth) for a, b in IN_BLOCK.items()}
    found = {
        f"{a}.{end}": state[f"{b}.{end}"]
        for a, b in names.items()
        for end in ("weight", "bias")
        if f"{b}.{end}" in state
    }
    return found | {"told_positions": state["in_context_posemb"][0]}


def test_outputs_are_those_of_the_authors_code(monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", ModuleType("gdown"))  # for downloads, which nobody asks for
    from azula.plugins.jit._src.model import JiT

    torch.manual_seed(0)
    sizes = {
        "input_size": 16,
        "patch_size": 4,
        "hidden_size": 32,
        "depth": 3,
        "num_heads": 2,
        "num_classes": 5,
        "bottleneck_dim": 6,
    }
    theirs = JiT(**sizes, in_context_len=3, in_context_start=1).eval()
    config = JiTConfig(patch=4, width=32, depth=3, heads=2, bottleneck=6, context_tokens=3, context_start=1)
    ours = build(config, channels=3, size=16, classes=5).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        ours.load_state_dict(theirs_under_our_names(theirs, 3))
        x, time, label = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.9]), torch.tensor([4, 1])
        with torch.compiler.set_stance("force_eager"):  # theirs asks for a compiler
            expected, null = theirs(x, time, label), theirs(x, time, torch.tensor([5, 5]))
        torch.testing.assert_close(ours(x, time, Cond(label=label)), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours(x, time, None), null, rtol=1e-4, atol=1e-5)
        assert (expected - null).abs().max() > 1e-2
        assert (ours(x, 1 - time, Cond(label=label)) - expected).abs().max() > 1e-3
