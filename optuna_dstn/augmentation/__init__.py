"""Augmentation of image batches, each example at a strength of its own, and mixing of examples.

Every strength is a plain number or a suggested hyperparameter, which is then tuned by gradient. On
any device, as part of the model or of its loss function::

    model = nn.Sequential(
        augmentation.RandomAffine(degrees=trial.suggest_float("degrees", 0, 45)),
        augmentation.ColorJitter(hue=trial.suggest_float("hue", 0, 0.5)),
        augmentation.Cutout(trial.suggest_int("holes", 0, 5), trial.suggest_int("length", 2, 24)),
        network,
    )

All but ``Cutout`` and the mixing functions need kornia: ``pip install optuna-dstn[vision]``.
"""

from optuna_dstn.augmentation._affine import RandomAffine
from optuna_dstn.augmentation._color_jitter import ColorJitter
from optuna_dstn.augmentation._cutout import Cutout
from optuna_dstn.augmentation._flip import RandomHorizontalFlip
from optuna_dstn.augmentation._mixing import cutmix, mixup


__all__ = ["ColorJitter", "Cutout", "RandomAffine", "RandomHorizontalFlip", "cutmix", "mixup"]
