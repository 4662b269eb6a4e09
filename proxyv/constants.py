"""Values that the formats fix: every reader, template and loss must mean the same by them."""

IMAGE_TOKEN = "<image>"  # stands for one image in a text (LLaVA's data format)
IGNORE_INDEX = -100  # the label of a token that is not supervised (torch's and transformers' own)
