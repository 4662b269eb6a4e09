"""A small tokenizer that knows the control tokens of every shipped chat template."""

from functools import lru_cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.processing import ProxyVProcessor
from proxyv.model.templates import chat_template

SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"]
SPECIAL += ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
SPECIAL += ["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|endoftext|>"]
CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT:",
    "What is the capital of France? The capital is Paris. And of Italy? Rome, of course.",
]
TEMPLATES = ("vicuna_v1", "qwen", "llama3", "phi3", "internlm2", "characters", "granite", "gemma", "olmo2")


@lru_cache
def make_chat_tokenizer(pieces: str = "bytes", begin: bool = False) -> PreTrainedTokenizerFast:
    """BPE over bytes, as Qwen's and Llama 3's, or over "words" that carry the blank before them, as Llama 2's; `begin`:
    it puts <s> before a text, as Llama's do."""
    core = Tokenizer(models.BPE(unk_token=None))
    if pieces == "bytes":
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace()
        alphabet = ["\n", "▁", *(chr(code) for code in range(33, 127))]
    special = ["<pad>", "<s>", "</s>", "<answer>", *SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS * 4, trainer)
    if begin:
        core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<answer>", *SPECIAL],
    )


def chat_processor(template: str, pieces: str = "bytes", begin: bool = False) -> ProxyVProcessor:
    """A processor of tiny crops that speaks one of the `TEMPLATES`."""
    images = ProxyVImageProcessor(crop_size=56, tokens_per_crop=16)
    return ProxyVProcessor(images, make_chat_tokenizer(pieces, begin), chat_template(template))
