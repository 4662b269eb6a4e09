"""The network. Importing this package makes the classes known to transformers' Auto classes."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from proxyv.model.configuration import ProxyVConfig
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor

AutoConfig.register(ProxyVConfig.model_type, ProxyVConfig)
AutoModelForImageTextToText.register(ProxyVConfig, ProxyVForConditionalGeneration)
AutoProcessor.register(ProxyVConfig, ProxyVProcessor)

__all__ = ["ProxyVConfig", "ProxyVForConditionalGeneration", "ProxyVImageProcessor", "ProxyVProcessor"]
