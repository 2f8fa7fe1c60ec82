"""Augmentation of image batches with hyperparameters for strengths, and mixing of examples.

Each strength is a plain number or a suggested hyperparameter. The ``Tuner`` tunes a hyperparameter
by gradient, and then each example of a batch has a strength of its own. The augmentations run on
any device, as a part of the model or in the loss function::

    model = nn.Sequential(
        augmentation.RandomAffine(degrees=trial.suggest_float("degrees", 0, 45)),
        augmentation.ColorJitter(hue=trial.suggest_float("hue", 0, 0.5)),
        augmentation.Cutout(trial.suggest_int("holes", 0, 5), trial.suggest_int("length", 2, 24)),
        network,
    )

All augmentations except ``Cutout``, ``mixup`` and ``cutmix`` need kornia:
``pip install optuna-dstn[vision]``.

In: images of shape (B, C, H, W). Out: images of the same shape.

Imports go down: ``rules`` and ``hyperparameter`` are below; nothing in the package imports this
folder.
"""

from optuna_dstn.augmentation._affine import RandomAffine
from optuna_dstn.augmentation._color_jitter import ColorJitter
from optuna_dstn.augmentation._cutout import Cutout
from optuna_dstn.augmentation._flip import RandomHorizontalFlip
from optuna_dstn.augmentation._mixing import cutmix, mixup


__all__ = ["ColorJitter", "Cutout", "RandomAffine", "RandomHorizontalFlip", "cutmix", "mixup"]
