"""Detectors of torchvision on our backbones: training, scores, pictures and exported files.

May import all packages but `cli`. `detections` and `exported` work without torch.
"""
