"""The network. Importing this package makes the classes known to transformers' Auto classes.

Letters in the shapes of tensors, the same in every file of this folder:

    B  samples of a batch            H  attention heads              C  crops of the whole batch
    L  rows of a prompt, padded      G  heads of keys and values     I  images of the whole batch
    Q  rows that are queries         D  width of the LLM             P  vision tokens of a crop
    K  rows that give keys           T  width of the tower           X  extra rows that a method puts behind an image
    V  words of the vocabulary       S  pixels per side of a crop

A row is a place in the sequence of hidden states: of a text token, a vision token, a newline or padding. What a method
has changed is marked, as in P' vision tokens that are left of P. A size without a letter is written out: head size.
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from proxyv.model.configuration import ProxyVConfig
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor

AutoConfig.register(ProxyVConfig.model_type, ProxyVConfig)
AutoModelForImageTextToText.register(ProxyVConfig, ProxyVForConditionalGeneration)
AutoProcessor.register(ProxyVConfig, ProxyVProcessor)

__all__ = ["ProxyVConfig", "ProxyVForConditionalGeneration", "ProxyVImageProcessor", "ProxyVProcessor"]
