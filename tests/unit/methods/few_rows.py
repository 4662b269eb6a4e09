"""Decoder layers in which attention is a plain mean, so that a few rows can be worked out by hand."""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from proxyv.model.families import mix_into_layers
from proxyv.model.layout import make_layout

# One text row, an image of one crop of two vision tokens a and b with its newline, one text row. All entries are ±1,
# so a norm without epsilon leaves the rows as they are.
T, A, B, N, U = [1.0, 1, 1, 1], [1.0, -1, 1, 1], [-1.0, -1, 1, 1], [1.0, 1, -1, 1], [-1.0, 1, 1, -1]
ROWS = torch.tensor([[T, A, B, N, U]])
LAYOUT = make_layout(torch.tensor([[0, 1, 1, 1, 0]]).bool(), None, [1], 2)


class PlusOne(nn.Module):
    """An FFN that adds one everywhere: rows that go through it differ from those that do not."""

    def forward(self, rows):
        return torch.ones_like(rows)


def few_rows_llm(mixin, method=None, start_layer=0):
    """An LLM of two layers and width 4, two query heads that share one key/value head of size 2. Keys are zero, so
    all visible rows weigh the same; a row's value is its first two entries; the output projection is the identity."""
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        rms_norm_eps=0.0,
        attn_implementation="sdpa",
    )
    llm = LlamaForCausalLM(config).eval()
    for index, layer in mix_into_layers(llm, mixin, range(start_layer, llm.config.num_hidden_layers)):
        if method is not None:
            layer.attach_method(method, config, 2, index)
    for layer in llm.model.layers:
        attention = layer.self_attn
        nn.init.zeros_(attention.k_proj.weight)
        attention.v_proj.weight = nn.Parameter(torch.eye(4)[:2])
        attention.o_proj.weight = nn.Parameter(torch.eye(4))
        layer.mlp = PlusOne()
    return llm
