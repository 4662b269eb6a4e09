"""The model: crops → tower → projector → rows of the LLM → logits or loss.

Read `forward` first; the rooms it calls are vision.py (tower and projector), layout.py (which row is what),
inputs.py (rows for the LLM), families.py and proxyv/methods/ (the layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from transformers import initialization
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput
from transformers.models.clip import modeling_clip

from proxyv.constants import IGNORE_INDEX
from proxyv.errors import UserError
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.generation import ImageGenerationMixin
from proxyv.model.inputs import LLMInputs, image_inputs, text_inputs
from proxyv.model.layout import make_layout
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.registry import describe_method, make_method
from proxyv.model.vision import TowerView

# Older transformers nest a tower's weights below `vision_model`; newer ones save them without, and read both.
TOWER_KEYS = (
    {r"^vision_tower\.(?!vision_model\.)": "vision_tower.vision_model."}
    if hasattr(modeling_clip, "CLIPVisionTransformer")
    else None
)
# How a recipe's module groups map to parameters; the first prefix or submodule name that fits decides.
MODULE_GROUPS = ("tower", "projector", "newline", "method", "llm")


@dataclass
class ProxyVOutput(ModelOutput):
    """`loss` (scalar, only with labels), `logits` (B, kept rows, vocabulary; None with labels), and the cache."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class ProxyVForConditionalGeneration(ProxyVPreTrainedModel, ImageGenerationMixin):
    """A vision tower, a projector, a causal LM, and one method. Images enter as `pixel_values` plus placeholders
    in `input_ids`, as `ProxyVProcessor` makes them."""

    def __init__(self, config: ProxyVConfig):
        super().__init__(config)
        self.method: Method = make_method(config.method, "config")
        self._install_method()
        self.post_init()

    # ── construction ────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's `from_pretrained`, but missing, unused or misshapen weights are an error, not a warning.

        Raises UserError that lists them.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("key_mapping", TOWER_KEYS)
        model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        bad = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys and kind != "error_msgs"}
        if bad:
            listed = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(keys)}" for kind, keys in bad.items())
            raise UserError(f"{path}: the weights do not fit the configuration: {listed}")
        return (model, info) if wants_info else model

    def switch_method(self, fields: dict[str, Any]) -> None:
        """Switch a method on for a model that was trained without one; its new modules get fresh weights.

        Raises UserError where the model already has another method, or the fields do not fit it.
        """
        wanted = make_method(fields)
        if wanted == self.method:
            return
        if self.method != make_method({"name": "full"}):
            raise UserError(
                f"method: the model already has '{describe_method(self.method)}'; start from one trained as 'full'"
            )
        like = self.language_model.get_input_embeddings().weight
        self.method = wanted
        self.config.method = describe_method(wanted)
        self._install_method()
        self.to(device=like.device, dtype=like.dtype)

    def fold(self) -> None:
        """Merge linear maps that follow each other in the method's modules, for faster inference; equal up to
        rounding. Saving still writes the original weights; `unfold` undoes it."""
        self._each_foldable("fold")

    def unfold(self) -> None:
        """Undo `fold`."""
        self._each_foldable("unfold")

    def _each_foldable(self, action: str) -> None:
        for module in self.modules():
            if module is not self and hasattr(module, action):
                getattr(module, action)()

    def _install_method(self) -> None:
        tokens = self.config.tokens_per_crop
        self.method.check(self.config, tokens)
        self.method.install(self, tokens)
        self.config.method = describe_method(self.method)

    @torch.no_grad()
    @initialization.guard_torch_init_functions()
    def initialize_weights(self) -> None:
        """Projector and method modules keep torch's own initial scale, as the published code has it; the LLM's
        and the tower's modules keep theirs."""
        for name, module in self.named_modules():
            group = self.module_group(name)
            fresh = not getattr(module, "_is_hf_initialized", False)
            if group in ("projector", "method") and fresh and hasattr(module, "reset_parameters"):
                module.reset_parameters()
                module._is_hf_initialized = True
        super().initialize_weights()

    def module_group(self, name: str) -> str:
        """The recipe's module group ("tower", "projector", "newline", "method", "llm") of a parameter or module."""
        if any(part in self.method.modules for part in name.split(".")):
            return "method"
        first = name.split(".")[0]
        return {"vision_tower": "tower", "projector": "projector", "image_newline": "newline"}.get(first, "llm")

    # ── the forward pass ────────────────────────────────────────────────────────────────────────────────────────

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        crops_per_image: torch.Tensor | Sequence[int] | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> ProxyVOutput:
        """One pass over a prompt (with or without images) or one decoding step.

        Args:
            input_ids: (B, L) int64; an image takes crops · (P + 1) placeholder ids, whatever the method drops.
            attention_mask: (B, L or cached + L), 0 at padding.
            pixel_values: (C, 3, S, S) normalised crops of all images of the batch, in reading order.
            crops_per_image: number of crops of each image.
            labels: (B, L), −100 where not supervised; logits are then computed only where needed.
            logits_to_keep: number of last rows that get logits (0: all), or their indices. Rows are those that are
                left after the last layer: a method may have dropped vision tokens.
            num_items_in_batch: supervised tokens of the global batch, for an exact mean under accumulation.

        Raises UserError where placeholders and images do not match.
        """
        methods = self.method.training_passes() if self.training and labels is not None else (self.method,)
        if pixel_values is None:
            if inputs_embeds is None:
                inputs_embeds = self._zero_term(self._embed_text(input_ids), methods)
            llm, cache = self.language_model, past_key_values
            runs = [text_inputs(llm, inputs_embeds, attention_mask, position_ids, cache, labels)] * len(methods)
        else:
            prompt = self.read_prompt(input_ids, attention_mask, crops_per_image, past_key_values, labels)
            runs = self._image_runs(methods, prompt, pixel_values, past_key_values, use_cache, labels)
        if labels is not None:
            passes = [self._run_with_loss(inputs, use_cache, num_items_in_batch, kwargs) for inputs in runs]
            loss = torch.stack([cast(torch.Tensor, of_pass.loss) for of_pass in passes]).mean()
            return ProxyVOutput(loss=loss, past_key_values=passes[-1].past_key_values)
        outputs = self._run(runs[0], use_cache, kwargs)
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        states = outputs.hidden_states
        if states is not None:  # proxies ride behind the rows
            states = tuple(state[:, : runs[0].embeddings.shape[1]] for state in states)
        return ProxyVOutput(
            logits=self.get_output_embeddings()(outputs.last_hidden_state[:, rows]),
            past_key_values=outputs.past_key_values,
            hidden_states=states,
            attentions=outputs.attentions,
        )

    def _image_runs(
        self,
        methods: Sequence[Method],
        prompt: Prompt,
        pixel_values: torch.Tensor,
        cache: Cache | None,
        use_cache: bool | None,
        labels: torch.Tensor | None,
    ) -> list[LLMInputs]:
        """What the LLM takes for a prompt with images, under each method. The tower's hidden states end here, before
        the LLM needs the memory."""
        # Text first, as without images: sharded training wants one order of modules on all ranks.
        text, view = self._embed_text(prompt.input_ids), self.view(pixel_values)
        runs = []
        for method in methods:
            vision = self.vision_tokens(method, view, prompt)
            inputs, layout = image_inputs(self, prompt.layout, text, vision, cache, use_cache, labels)
            runs.append(replace(inputs, plan=method.plan(self, layout, inputs.embeddings)))
        return runs

    def vision_tokens(self, method: Method, view: TowerView, prompt: Prompt) -> VisionTokens:
        """Tower features through a method and the projector: what enters the LLM for the images."""
        selected = method.select(self, view, prompt)
        return method.merge(self, selected._replace(values=self.projector(selected.values)), prompt)

    def _run(self, inputs: LLMInputs, use_cache: bool | None, kwargs: dict[str, Any]) -> Any:
        if inputs.plan is not None and kwargs.get("output_attentions"):
            raise UserError("output_attentions: not kept for a prefill with this method; use output_hidden_states")
        plan = {} if inputs.plan is None else {"vision_plan": inputs.plan}
        decode_rows = {} if inputs.decode_rows is None else {"decode_rows": inputs.decode_rows}
        return self.language_model.model(
            inputs_embeds=inputs.embeddings,
            attention_mask=inputs.attention_mask,
            position_ids=inputs.position_ids,
            past_key_values=inputs.cache,
            use_cache=use_cache,
            **plan,
            **decode_rows,
            **kwargs,
        )

    def _run_with_loss(
        self,
        inputs: LLMInputs,
        use_cache: bool | None,
        num_items: torch.Tensor | int | None,
        kwargs: dict[str, Any],
    ) -> ProxyVOutput:
        outputs = self._run(inputs, use_cache, kwargs)
        hidden, labels = outputs.last_hidden_state, cast(torch.Tensor, inputs.labels)
        if inputs.plan is not None:
            labels = inputs.plan.remaining(labels.to(hidden.device), fill=IGNORE_INDEX)
        loss = supervised_loss(self.get_output_embeddings(), hidden, labels, num_items)
        return ProxyVOutput(loss=loss, past_key_values=outputs.past_key_values)

    def read_prompt(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        crops_per_image: torch.Tensor | Sequence[int] | None,
        cache: Cache | None = None,
        labels: torch.Tensor | None = None,
    ) -> Prompt:
        """A prompt with images and its layout; arguments as `forward`'s.

        Raises UserError where something is missing, shapes differ, placeholders and images do not match, or the cache
        is not empty.
        """
        if input_ids is None or crops_per_image is None:
            raise UserError("pixel_values need input_ids and crops_per_image; use ProxyVProcessor's output whole")
        if cache is not None and cache.get_seq_length() > 0:
            raise UserError("new images cannot join a running cache; send the whole conversation once more")
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise UserError(
                f"attention_mask: shape {tuple(attention_mask.shape)} must be that of input_ids, "
                f"{tuple(input_ids.shape)}, for a prompt with images"
            )
        counts = crops_per_image.tolist() if isinstance(crops_per_image, torch.Tensor) else crops_per_image
        layout = make_layout(
            input_ids == self.config.image_token_id,
            attention_mask,
            counts,
            self.config.tokens_per_crop,
            self.config.newline_positions,
            labels,
        )
        return Prompt(input_ids, layout)

    def _embed_text(self, input_ids: torch.Tensor | None) -> torch.Tensor:
        """Token embeddings; placeholders, whose id may lie beyond the vocabulary, get those of id 0."""
        if input_ids is None:
            raise UserError("input_ids: give them, or inputs_embeds")
        ids = input_ids.masked_fill(input_ids == self.config.image_token_id, 0)
        embeddings = self.get_input_embeddings()
        return embeddings(ids.to(embeddings.weight.device))

    def _zero_term(self, embeddings: torch.Tensor, methods: Sequence[Method]) -> torch.Tensor:
        """Add zero through tower, projector and newline while training on text only: every rank must take part
        in the gradient exchange of every trained module, once for each pass."""
        if not (self.training and torch.is_grad_enabled()):
            return embeddings
        vision, config = self.config.vision_config, self.config
        blank = embeddings.new_zeros(1, vision.num_channels, vision.image_size, vision.image_size)
        ids = torch.full((1, config.tokens_per_crop + 2), config.image_token_id)
        ids[:, -1] = 0  # a prompt of one image and one text token
        view, prompt = self.view(blank), self.read_prompt(ids, None, [1])
        total = self.image_newline.sum()
        for method in methods:
            tokens = self.vision_tokens(method, view, prompt)
            total = total + tokens.values.sum() + (0.0 if tokens.extra is None else tokens.extra.sum())
        return embeddings + 0.0 * total


def supervised_loss(
    head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None
) -> torch.Tensor:
    """Mean cross entropy over the supervised next tokens, logits in float32 and only where needed.

    Args:
        hidden: (B, L, D); labels: (B, L), −100 where not supervised.
        num_items: divide by this instead of the number of supervised tokens here.
    """
    targets = labels[:, 1:].to(hidden.device)
    keep = targets != IGNORE_INDEX
    if not bool(keep.any()):  # nothing to learn here, but every rank must take part in the exchange
        return 0.0 * head(hidden[:, :1]).float().sum()
    logits = head(hidden[:, :-1][keep]).float()
    if num_items is None:
        return nn.functional.cross_entropy(logits, targets[keep])
    total = nn.functional.cross_entropy(logits, targets[keep], reduction="sum")
    return total / torch.as_tensor(num_items, device=total.device)
