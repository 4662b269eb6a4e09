"""A view of a tower that was never run: hidden states, queries and keys written by hand."""

from types import SimpleNamespace

import torch

from proxyv.model.vision import TowerView


class FakeView(TowerView):
    """`hidden` (C, 1 + P, D), the CLS token first, as the features; `keys` (C, 1 + P, D) and `query` (C, D) of the CLS
    token in block `block`, the only one that may be asked for."""

    def __init__(self, hidden, keys, query, heads=1, block=0):
        self.hidden_states, self.feature_layer, self.special = [torch.as_tensor(hidden, dtype=torch.float)], 0, 1
        self.tower = SimpleNamespace(config=SimpleNamespace(num_attention_heads=heads))
        self.made_keys, self.made_query, self.block = (
            torch.as_tensor(keys).float(),
            torch.as_tensor(query).float(),
            block,
        )

    @property
    def feature_block(self):
        return 0

    def keys(self, block):
        assert block == self.block
        return self.made_keys

    def cls_query(self, block):
        assert block == self.block
        return self.made_query
