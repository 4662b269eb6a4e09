"""VisToG: semantic tokens that ride through the tower unseen, then group the patches."""

import pytest
import torch
from torch import nn

from proxyv.errors import UserError
from proxyv.methods.vistog import SemanticGrouping, assign, through_tower
from proxyv.model.build import build_model
from proxyv.model.vision import tower_blocks
from tests.tiny import tiny_model, tiny_recipe
from tests.unit.methods.ragged import check_cached_rows, ragged_batch

FIELDS = {"name": "vistog", "tokens": 4}


def plain_grouping(groups, size):
    """Every learned map the identity."""
    grouping = SemanticGrouping(size, groups, 1e-6).eval()
    for name in ("norm_groups", "norm_patches", "query", "key", "value", "out"):
        setattr(grouping, name, nn.Identity())
    return grouping


def test_grouping_by_hand():
    """Two groups that look along one axis each: patches 0 and 2 lean to the first, 1 and 3 to the second."""
    semantic = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    patches = torch.tensor([[[3.0, 1.0], [1.0, 2.0], [5.0, 0.0], [0.0, 4.0]]])
    # Means (4, 0.5) and (0.5, 3), each added to its semantic token.
    assert plain_grouping(2, 2)(semantic, patches).tolist() == [[[5.0, 0.5], [0.5, 4.0]]]


def test_a_group_without_members_stays():
    semantic = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    patches = torch.tensor([[[3.0, 1.0], [5.0, 1.0]]])
    assert plain_grouping(2, 2)(semantic, patches).tolist() == [[[5.0, 1.0], [-1.0, 0.0]]]


def test_noise_in_training_only_and_a_gradient_through_the_choice():
    scores = torch.zeros(1, 3, 50, requires_grad=True)
    torch.manual_seed(0)
    chosen = [assign(scores, noisy=True) for _ in range(2)]
    assert not torch.allclose(*chosen)
    for member in (*chosen, assign(scores, noisy=False)):  # each patch in one group
        torch.testing.assert_close(member.amax(1), torch.ones(1, 50))
        torch.testing.assert_close(member.sum(1), torch.ones(1, 50))
    (chosen[0] * torch.rand(1, 3, 50)).sum().backward()
    assert scores.grad.abs().sum() > 0
    assert torch.equal(assign(scores, noisy=False), assign(scores, noisy=False))


@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip_vision_model"])
@pytest.mark.parametrize("feature_layer", [-2, 3])
def test_the_ride_is_the_towers_pass_with_isolated_attention(kind, feature_layer):
    """Semantic tokens behind the tower's own rows, in one pass through its blocks, hidden from those rows."""
    recipe = tiny_recipe("llama", FIELDS)
    recipe.vision.config["model_type"], recipe.vision.feature_layer = kind, feature_layer
    torch.manual_seed(0)
    model = build_model(recipe).eval()
    tower = getattr(model.vision_tower, "vision_model", model.vision_tower)
    with torch.no_grad():
        view = model.view(torch.randn(3, 3, 56, 56))
        semantic = torch.randn(3, 4, 32)
        own = view.hidden_states[0].shape[1]
        rows = torch.cat([view.hidden_states[0], getattr(tower, "pre_layrnorm", nn.Identity())(semantic)], 1)
        isolated = torch.zeros(1, 1, own + 4, own + 4)
        isolated[..., :own, own:] = torch.finfo(torch.float32).min
        for block in tower_blocks(model.vision_tower)[: view.feature_layer]:
            rows = block(rows, attention_mask=isolated)
            rows = rows[0] if isinstance(rows, tuple) else rows
        torch.testing.assert_close(through_tower(view, semantic), rows[:, own:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(view.patches(), rows[:, own - 16 : own], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [2, 16])
def test_every_layers_cache_holds_the_groups(tokens):
    model, processor = tiny_model("qwen2", {**FIELDS, "tokens": tokens})
    check_cached_rows(model, processor, tokens)


def test_a_frozen_tower_still_teaches_the_semantic_tokens():
    model, processor = tiny_model("llama", FIELDS)
    model.vision_tower.requires_grad_(False)
    model.train()
    model.method.select(
        model, model.view(ragged_batch(processor)["pixel_values"]), None
    ).values.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.reducer.parameters())
    assert all(parameter.grad is None for parameter in model.vision_tower.parameters())


@pytest.mark.parametrize("tokens", [1, 17])
def test_fields_that_do_not_fit_are_refused(tokens):
    with pytest.raises(UserError, match=f"method.tokens: {tokens} "):
        tiny_model("llama", {**FIELDS, "tokens": tokens})
