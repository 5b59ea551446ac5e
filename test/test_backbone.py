"""The seam for other backbones: what answers as one is pruned by the same code as π0."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from grids_ros.policy.backbone import BACKBONES, backbone_of
from grids_ros.policy.grids import attach, attached, detach, tokens_per_camera
from grids_ros.sampler import SamplerConfig


class Other(nn.Module):
    """Nothing of π0: another place for the projector, another shape of the map."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(model_type="other", rows=3, columns=5, width=8)
        self.connector = nn.Module()
        self.connector.multi_modal_projector = nn.Linear(6, 8)


def test_another_backbone_is_pruned_by_the_same_code(monkeypatch):
    answers = SimpleNamespace(
        PROJECTOR="connector.multi_modal_projector",
        grid=lambda config: (config.rows, config.columns),
        width=lambda config: config.width,
    )
    monkeypatch.setitem(BACKBONES, "other", answers)
    model, features = Other(), torch.randn(2, 15, 6)
    dense = model.connector.multi_modal_projector(features)
    assert tokens_per_camera(model) == 15 and dense.shape == (2, 15, 8)
    attach(model, SamplerConfig(tokens=4, channels=8))
    assert tokens_per_camera(model) == 4
    assert model.connector.multi_modal_projector(features).shape == (2, 4, 8)
    torch.testing.assert_close(attached(model).dense, dense.unflatten(1, (3, 5)))
    detach(model)
    assert torch.equal(model.connector.multi_modal_projector(features), dense)


def test_an_unknown_backbone_names_those_that_are_known():
    with pytest.raises(ValueError, match="model_type is 'other', expected 'pi0' or 'pi05' or 'smolvla'"):
        backbone_of("other")
