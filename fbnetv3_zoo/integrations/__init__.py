"""Models for other libraries: timm, torchvision and Detectron2, and data sets in COCO format.

May import all rooms except `demo` and `cli`. An optional library is imported only by the files
about it.
"""
