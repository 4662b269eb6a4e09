"""VisToG: learned semantic tokens ride through the frozen tower, then gather the patches into groups.

Paper: "Efficient Multi-modal Large Language Models via Visual Token Grouping", arXiv 2411.17773. Approximate: no code
is public, and of the paper only the abstract, the overview figure's caption and reviews were at hand. From them:
semantic tokens join the patches behind the tower's patch projection; attention is isolated, so that patches never see
them while they see patches and each other; behind the tower one layer assigns every patch to one semantic token, hard
but differentiable, and merges each group into one vision token.
Deviations: what the sources leave open follows GroupViT (arXiv 2202.11094): similarities of normed tokens through one
linear map each, Gumbel noise in training (none in evaluation) with a straight-through gradient, and the mean of a
group's members added to its semantic token. Semantic tokens have no position embedding; they leave the tower at the
model's feature layer, and see its CLS token. Shifts that move the scores of all groups alike, which the choice
cancels (the query map's bias, and that of the norm before it), are left out. Works on every crop by itself. The ride
follows the tower's own pass, so keys and values of the patches are computed twice: a cost that is not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from proxyv.domains import Count
from proxyv.errors import FieldError
from proxyv.methods.shared.before_llm import attend_plainly
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.vision import TowerView, tower_blocks


@dataclass(frozen=True)
class VisToG(Method):
    """`tokens` vision tokens per crop, one for each semantic token; 64 is the fewest that the paper tests."""

    name: ClassVar[str] = "vistog"
    trained: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("reducer",)
    needs: ClassVar[tuple[str, ...]] = ("tower_layers",)
    approximate: ClassVar[bool] = True
    keeps_grid: ClassVar[bool] = False

    tokens: Count = 64

    def tokens_per_crop(self, tokens: int) -> int:
        return self.tokens

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        if not 2 <= self.tokens <= tokens:
            raise FieldError("tokens", f"{self.tokens} must lie between 2 and the {tokens} patches of a crop")

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        vision = model.config.vision_config
        model.reducer = SemanticGrouping(vision.hidden_size, self.tokens, vision.layer_norm_eps)

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        patches = view.patches()
        semantic = through_tower(view, model.reducer.semantic.repeat(len(patches), 1, 1))
        return VisionTokens(model.reducer(semantic, patches))


def through_tower(view: TowerView, tokens: torch.Tensor) -> torch.Tensor:
    """Extra tokens (C, M, T), as if they stood among the patches from the start: what they are at the feature layer.

    They attend to all of the tower's tokens and to each other; the tower's own pass is over, so nothing sees them.
    """
    norm = getattr(getattr(view.tower, "vision_model", view.tower), "pre_layrnorm", None)  # CLIP has one, SigLIP none
    tokens = tokens if norm is None else norm(tokens)
    for index in range(view.feature_layer):
        block: Any = tower_blocks(view.tower)[index]
        attention, own = block.self_attn, block.layer_norm1(tokens)
        seen = torch.cat([block.layer_norm1(view.hidden_states[index]), own], 1)
        heads = attention.num_heads
        attended = attend_plainly(attention.q_proj(own), attention.k_proj(seen), attention.v_proj(seen), heads)
        tokens = tokens + attention.out_proj(attended)
        tokens = tokens + block.mlp(block.layer_norm2(tokens))
    return tokens


class SemanticGrouping(nn.Module):
    """The M semantic tokens (M, T), and the layer that groups patches by them."""

    def __init__(self, size: int, groups: int, eps: float):
        super().__init__()
        self.semantic = nn.Parameter(torch.empty(groups, size))
        self.norm_groups = nn.LayerNorm(size, eps=eps, bias=False)
        self.norm_patches = nn.LayerNorm(size, eps=eps)
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small semantic tokens, as GroupViT's."""
        nn.init.normal_(self.semantic, std=0.02)

    def forward(self, semantic: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """semantic (C, M, T) as they left the tower, patches (C, P, T) → (C, M, T)."""
        normed = self.norm_patches(patches)
        scores = self.query(self.norm_groups(semantic)) @ self.key(normed).transpose(1, 2) * patches.shape[-1] ** -0.5
        member = assign(scores.float(), noisy=self.training).to(normed.dtype)
        mean = member @ self.value(normed) / member.sum(-1, keepdim=True).clamp(min=1.0)
        grouped: torch.Tensor = semantic + self.out(mean)
        return grouped


def assign(scores: torch.Tensor, noisy: bool) -> torch.Tensor:
    """scores (C, M, P) float32 → (C, M, P) float32, 1 at the group of each patch and 0 elsewhere. `noisy` adds Gumbel
    noise and lets the gradient of the softmax through."""
    if noisy:
        return F.gumbel_softmax(scores, hard=True, dim=1)
    return torch.zeros_like(scores).scatter(1, scores.argmax(1, keepdim=True), 1.0)
