"""The model: crops → tower → projector → rows of the LLM → logits or loss.

Read `forward` first; what it calls lies in vision.py (tower and projector), layout.py (which row is what), inputs.py
(rows for the LLM), gradient_order.py (text in training), loss.py, and, for what happens inside the LLM, in families.py
and proxyv/methods/ (the layers). Letters as in `proxyv.model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import torch
from transformers import initialization
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput

from proxyv.config import ModuleGroup
from proxyv.constants import IGNORE_INDEX
from proxyv.errors import UserError
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.generation import ImageGenerationMixin
from proxyv.model.gradient_order import TextBatch, add_blank_image, text_needs_image
from proxyv.model.inputs import LLMInputs, check_images_given, image_inputs, make_prompt, text_inputs
from proxyv.model.loss import supervised_loss
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.registry import describe_method, make_method
from proxyv.model.vision import TowerView

# What a recipe may train or freeze as one; `module_group` says to which a parameter belongs.
MODULE_GROUPS: tuple[str, ...] = get_args(ModuleGroup)


@dataclass
class ProxyVOutput(ModelOutput):
    """What `forward` returns.

    Args:
        loss: float32 scalar; with labels only.
        logits: (B, rows, V), rows as `logits_to_keep` says; without labels only.
        past_key_values: the cache, with the rows that the method keeps; where one is used.
        hidden_states: one more than the LLM has layers, each (B, L', D) with the rows that are there at that depth;
            with `output_hidden_states=True` and without labels.
        attentions: one for each layer, (B, H, Q, K); with `output_attentions=True`, under eager attention.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class ProxyVForConditionalGeneration(ProxyVPreTrainedModel, ImageGenerationMixin):
    """A vision tower, a projector, a causal LM, and one method. Images enter as `pixel_values` plus placeholders
    in `input_ids`, as `ProxyVProcessor` makes them.

    Raises UserError where the configuration's method does not fit the tower or the LLM.

    Example, a random model that writes two tokens behind an image of one crop (4 × 4 patches and a newline):

        >>> import torch
        >>> from transformers import CLIPVisionConfig, LlamaConfig
        >>> from proxyv.model import ProxyVConfig
        >>> small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        >>> config = ProxyVConfig(
        ...     LlamaConfig(vocab_size=50, **small),
        ...     CLIPVisionConfig(image_size=56, patch_size=14, **small),
        ...     method={"name": "proxyv", "start_layer": 1, "downsample": 2},
        ...     image_token_id=50,
        ... )
        >>> model = ProxyVForConditionalGeneration(config).eval()
        >>> prompt = torch.tensor([[1] + 17 * [50] + [7, 8, 9]])
        >>> crops = torch.rand(1, 3, 56, 56)
        >>> settings = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
        >>> model.generate(input_ids=prompt, pixel_values=crops, crops_per_image=[1], **settings).shape
        torch.Size([1, 23])
    """

    def __init__(self, config: ProxyVConfig):
        super().__init__(config)
        self.method: Method = make_method(config.method)
        self._install_method()
        self.post_init()

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
            attention_mask: (B, L), behind a cache (B, cached + L); int64 or bool, 0 at padding. None: no padding.
            position_ids: (B, L) int64, of text; with images, the layout's are taken.
            past_key_values: cache to fill or to continue; empty where images enter.
            inputs_embeds: (B, L, D) instead of `input_ids`, for text.
            pixel_values: (C, 3, S, S) float, normalised crops of all images of the batch, in reading order.
            crops_per_image: (I,) int64 or ints, number of crops of each image.
            labels: (B, L) int64, −100 where not supervised; they give a loss in place of logits.
            use_cache: whether to return a cache; None: as the LLM's configuration says.
            logits_to_keep: number of last rows that get logits (0: all), or their indices (rows,) int64. Rows are
                those that are left after the last layer: a method may have dropped vision tokens.
            num_items_in_batch: supervised tokens of the global batch, for an exact mean under accumulation.
            kwargs: for the LLM, such as `output_hidden_states`.

        Raises UserError where something is missing, placeholders and images do not match, images meet a cache that is
        not empty, or a method cannot give what `kwargs` name.

            >>> model = ProxyVForConditionalGeneration.from_pretrained(folder)  # of a run, with its processor
            >>> inputs = ProxyVProcessor.from_pretrained(folder)(images=image, text="<image> which word")
            >>> model(**inputs, logits_to_keep=1).logits.shape[:2]  # of the next token
            torch.Size([1, 1])
            >>> labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)
            >>> model(**inputs, labels=labels).loss.dtype
            torch.float32
        """
        methods = self.method.training_passes() if self.training and labels is not None else (self.method,)
        check_images_given(self.config, input_ids, pixel_values, past_key_values)
        plain_text = pixel_values is None and position_ids is None and past_key_values is None
        if plain_text and input_ids is not None and labels is not None and self._order_matters():
            text_batch = TextBatch(input_ids, attention_mask, labels)
            (input_ids, attention_mask, labels), pixel_values = add_blank_image(self.config, text_batch)
            crops_per_image, use_cache = [1], False
        if pixel_values is None:
            text = self.embed_text(input_ids) if inputs_embeds is None else inputs_embeds
            llm, cache = self.language_model, past_key_values
            runs = [text_inputs(llm, text, attention_mask, position_ids, cache, labels)] * len(methods)
        else:
            prompt = self.read_prompt(input_ids, attention_mask, crops_per_image, past_key_values, labels)
            runs = self._image_runs(methods, prompt, pixel_values, past_key_values, use_cache, labels)
        if labels is not None:
            return self._mean_loss(runs, use_cache, num_items_in_batch, kwargs)
        return self._logits(runs[0], use_cache, logits_to_keep, kwargs)

    def embed_text(self, input_ids: torch.Tensor | None) -> torch.Tensor:
        """(B, L) int64 → (B, L, D); placeholders, whose id may lie beyond the vocabulary, get the embedding of id 0."""
        if input_ids is None:
            raise UserError("input_ids: give them, or inputs_embeds")
        ids = input_ids.masked_fill(input_ids == self.config.image_token_id, 0)
        embeddings = self.get_input_embeddings()
        embedded: torch.Tensor = embeddings(ids.to(embeddings.weight.device))
        return embedded

    def _order_matters(self) -> bool:
        """Whether text must take the way of images now, see gradient_order.py."""
        if not (self.training and torch.is_grad_enabled()):
            return False
        return text_needs_image(self.method, ((self.module_group(n), p) for n, p in self.named_parameters()))

    def read_prompt(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        crops_per_image: torch.Tensor | Sequence[int] | None,
        cache: Cache | None = None,
        labels: torch.Tensor | None = None,
    ) -> Prompt:
        """A prompt with images and its layout; see `make_prompt`."""
        return make_prompt(self.config, input_ids, attention_mask, crops_per_image, cache, labels)

    def _image_runs(
        self,
        methods: Sequence[Method],
        prompt: Prompt,
        pixel_values: torch.Tensor,
        cache: Cache | None,
        use_cache: bool | None,
        labels: torch.Tensor | None,
    ) -> list[LLMInputs]:
        """What the LLM takes for a prompt with images, under each method. The tower's hidden states are freed when this
        returns, before the LLM needs the memory."""
        # Text first, as without images: sharded training wants one order of modules on all ranks.
        text, view = self.embed_text(prompt.input_ids), self.view(pixel_values)
        runs = []
        for method in methods:
            vision = self.vision_tokens(method, view, prompt)
            inputs, layout = image_inputs(self, prompt.layout, text, vision, cache, use_cache, labels)
            runs.append(replace(inputs, plan=method.plan(self, layout, inputs.embeddings)))
        return runs

    def prefill_states(self, prompt: Prompt, pixel_values: torch.Tensor) -> tuple[LLMInputs, tuple[torch.Tensor, ...]]:
        """What enters the LLM for a prompt with images, and the hidden states at every depth (see `ProxyVOutput`).

        Args:
            pixel_values: (C, 3, S, S) float.

        `layout` and `plan` of the first say which row is what: `plan.remaining(…, layers=k)` for state k.
        """
        (inputs,) = self._image_runs((self.method,), prompt, pixel_values, None, False, None)
        output = self._logits(inputs, False, 1, {"output_hidden_states": True})
        return inputs, cast("tuple[torch.Tensor, ...]", output.hidden_states)

    def vision_tokens(self, method: Method, view: TowerView, prompt: Prompt) -> VisionTokens:
        """Tower features through a method and the projector: what enters the LLM for the images, values (C, P', D)."""
        selected = method.select(self, view, prompt)
        return method.merge(self, selected._replace(values=self.projector(selected.values)), prompt)

    def _run(self, inputs: LLMInputs, use_cache: bool | None, kwargs: dict[str, Any]) -> Any:
        """One run of the LLM without its output head; returns transformers' own output of a decoder."""
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

    def _mean_loss(
        self,
        runs: Sequence[LLMInputs],
        use_cache: bool | None,
        num_items: torch.Tensor | int | None,
        kwargs: dict[str, Any],
    ) -> ProxyVOutput:
        """The mean of the runs' losses, and the cache of the last run."""
        losses = []
        for inputs in runs:
            outputs = self._run(inputs, use_cache, kwargs)
            hidden, labels = outputs.last_hidden_state, cast(torch.Tensor, inputs.labels)
            if inputs.plan is not None:
                labels = inputs.plan.remaining(labels.to(hidden.device), fill=IGNORE_INDEX)
            losses.append(supervised_loss(self.head, hidden, labels, num_items))
        return ProxyVOutput(loss=torch.stack(losses).mean(), past_key_values=outputs.past_key_values)

    def _logits(
        self, inputs: LLMInputs, use_cache: bool | None, logits_to_keep: int | torch.Tensor, kwargs: dict[str, Any]
    ) -> ProxyVOutput:
        outputs = self._run(inputs, use_cache, kwargs)
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        states = outputs.hidden_states
        if states is not None:  # proxies ride behind the rows
            states = tuple(state[:, : inputs.embeddings.shape[1]] for state in states)
        return ProxyVOutput(
            logits=self.head(outputs.last_hidden_state[:, rows]),
            past_key_values=outputs.past_key_values,
            hidden_states=states,
            attentions=outputs.attentions,
        )

    # ── weights and method ──────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Projector and method modules keep torch's own initial scale, as the published code has it; the LLM's
        and the tower's modules keep theirs."""
        with initialization.guard_torch_init_functions():  # leaves weights alone that were loaded
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

    def _install_method(self) -> None:
        tokens = self.config.tokens_per_crop
        self.method.check(self.config, tokens)
        self.method.install(self, tokens)
        self.config.method = describe_method(self.method)

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
        rounding. Saving still writes the original weights; `unfold` undoes it.

        Raises UserError where an adapter lies on one of them.
        """
        self._each_foldable("fold")

    def unfold(self) -> None:
        """Undo `fold`."""
        self._each_foldable("unfold")

    def _each_foldable(self, action: str) -> None:
        for module in self.modules():
            if module is not self and hasattr(module, action):
                getattr(module, action)()
