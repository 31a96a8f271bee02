"""Networks that know the package's photos, as weights of ImageNet do."""

import torch

from fbnetv3.images.labels import class_names, example_photos
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.images.reader import open_image
from fbnetv3.models.model import FBNetV3


def teach(model: FBNetV3, preprocess: Preprocess, *answers: str) -> None:
    """Makes a network's classifier give these answers for the package's photos, in their order."""
    names = class_names("imagenet1k")
    photos = [torch.from_numpy(preprocess(open_image(path))) for path in example_photos()]
    batch = torch.stack(photos)
    wanted = torch.zeros(len(answers), len(names))
    for row, answer in zip(wanted, answers, strict=True):
        row[names.index(answer)] = 10
    with torch.no_grad():
        features = model.forward_head(model.forward_features(batch), pre_logits=True)
        model.get_parameter("classifier.weight").copy_((torch.linalg.pinv(features) @ wanted).T)
        model.get_parameter("classifier.bias").zero_()
        assert [names[i] for i in model(batch).argmax(1).tolist()] == list(answers)
