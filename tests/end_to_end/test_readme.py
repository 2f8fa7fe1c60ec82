"""The README's example runs as it stands, on shorter loops."""

from pathlib import Path
import re

import optuna
import plotly.graph_objects as go
import torch
from torch.utils.data import DataLoader, TensorDataset


README = Path(__file__).parents[2] / "README.md"


def shortened(code: str) -> str:
    for long, short in (("range(100)", "range(2)"), ("n_trials=30", "n_trials=2")):
        assert code.count(long) == 1
        code = code.replace(long, short)
    assert code.rstrip().splitlines()[-1].startswith("optuna.visualization")
    return re.sub(r"^(optuna\.visualization)", r"figure = \1", code, flags=re.M)


def test_the_example_tunes_all_three_in_one_trial():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(128, 64, generator=generator)
    data = TensorDataset(x, torch.randint(10, (128,), generator=generator))
    names = {"train_loader": DataLoader(data, 32), "valid_loader": DataLoader(data, 64)}

    exec(compile(shortened(code), str(README), "exec"), names)

    study, baseline = names["study"], names["baseline"]
    (trial,) = study.trials
    three = {"input_dropout", "hidden_dropout", "weight_decay"}
    assert set(trial.user_attrs["dstn:tuned"]) == three
    assert set(trial.params) == three
    assert trial.state == optuna.trial.TrialState.COMPLETE
    assert len(baseline.trials) == 2
    assert isinstance(names["figure"], go.Figure)
