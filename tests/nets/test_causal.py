"""The prior's transformer is causal, sees no padding, and tells what it is told from what it is not."""

import pytest
import torch

from reverie.core.condition import Cond, Entry
from reverie.core.errors import InputError
from reverie.nets.causal import CausalPrior


def shaken(**others):
    torch.manual_seed(0)
    net = CausalPrior(6, **{"context": 5, "length": 4, "width": 16, "depth": 2, "heads": 2, **others})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return net.eval().requires_grad_(False)


def test_a_token_knows_itself_and_those_before_it_only():
    net, sequence, real = shaken(), torch.randn(2, 8, 16), torch.ones(2, 8, dtype=torch.bool)
    before = net.through_all(sequence, real)
    sequence[:, 5] += torch.randn(16)
    after = net.through_all(sequence, real)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert ((before - after)[:, 5:].abs().amax((0, 2)) > 1e-2).all()


def test_padding_of_a_text_changes_nothing_and_its_tokens_do():
    net, x, time, tokens = shaken(), torch.randn(3, 6), torch.tensor(0.4), torch.randn(3, 4, 5)
    mask = torch.tensor([True, True, False, False]).expand(3, -1)

    def said(tokens):
        return net(x, time, Cond(text=Entry.of(tokens, mask), vector=torch.ones(3, 6)))

    padded, other = tokens.clone(), tokens.clone()
    padded[:, 2:] = 9.0
    other[:, 1] += 1.0
    assert torch.allclose(said(tokens), said(padded), atol=1e-6)
    assert (said(tokens) - said(other)).abs().max() > 1e-2


def test_each_condition_and_the_time_is_heard_and_what_is_absent_is_the_null():
    net, x, time = shaken(), torch.randn(3, 6), torch.tensor(0.4)
    cond = Cond(text=torch.randn(3, 2, 5), vector=torch.randn(3, 6))
    nothing = net(x, time)
    assert torch.allclose(nothing, net(x, time, cond.null()), atol=1e-6)
    for heard in (Cond(text=cond["text"]), Cond(vector=cond["vector"])):
        assert (net(x, time, heard) - nothing).abs().max() > 1e-2
    assert (net(x, torch.tensor(0.9)) - nothing).abs().max() > 1e-2
    swapped = net(x, time, cond.index([1, 0, 2]))
    assert (swapped[2] - net(x, time, cond)[2]).abs().max() < 1e-6 < (swapped[0] - net(x, time, cond)[0]).abs().max()


def test_vectors_of_another_length_are_refused():
    with pytest.raises(InputError, match="expected vectors \\(batch, 6\\)"):
        shaken()(torch.randn(2, 7), torch.tensor(0.1))
    assert set(shaken(context=0).conditions) == {"vector"}
