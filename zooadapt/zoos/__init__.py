"""Where models come from: timm, torchvision, transformers, folders of one's own, plug-ins."""
