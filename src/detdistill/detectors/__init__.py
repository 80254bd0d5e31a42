"""Every line that knows a foreign model: torchvision's detectors on timm's backbones, behind one interface."""
