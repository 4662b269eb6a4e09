"""The network. Importing this package makes the classes known to transformers' Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from proxyv.model.configuration import ProxyVConfig
from proxyv.model.image_processing import ProxyVImageProcessor
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.processing import ProxyVProcessor

AutoConfig.register(ProxyVConfig.model_type, ProxyVConfig)
AutoModelForImageTextToText.register(ProxyVConfig, ProxyVForConditionalGeneration)
AutoProcessor.register(ProxyVConfig, ProxyVProcessor)
AutoImageProcessor.register(ProxyVConfig, slow_image_processor_class=ProxyVImageProcessor)

__all__ = ["ProxyVConfig", "ProxyVForConditionalGeneration", "ProxyVImageProcessor", "ProxyVProcessor"]
