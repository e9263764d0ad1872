import pytest

from got_core.errors import one_line
from got_core.training.recipe_errors import explain

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'torch.optim.AdamW':
        Parser key "backbone":
          Problem with given class_path 'torch.optim.SGD':
            {reason}
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {{'lr': 3}}"""


@pytest.mark.parametrize(
    ("reason", "plain"),
    [
        (
            "Option 'momentun' is not accepted",
            "model.backbone: torch.optim.SGD takes no 'momentun'; did you mean 'momentum'?",
        ),
        ("Option 'xyz' is not accepted", "model.backbone: torch.optim.SGD takes no 'xyz'"),
        (
            "Parser key \"lr\":\n              Expected a <class 'float'>. Got value: x",
            "model.backbone.lr: expected float, got 'x'",
        ),
        ("No such thing", "model.backbone: torch.optim.SGD: No such thing"),
    ],
)
def test_the_innermost_reason_is_kept_with_its_key(reason, plain):
    assert explain(ValueError(NESTED.format(reason=reason))) == plain


def test_other_messages_are_put_on_one_line():
    assert explain(ValueError("first\n  second")) == "first second"
    assert len(one_line(ValueError("x" * 4000))) < 410


def test_an_error_of_a_loaders_worker_is_its_last_line():
    text = "Caught ValueError in DataLoader worker process 0.\nTraceback:\n  File x\nValueError: a.png: no image"
    assert one_line(ValueError(text)) == "a.png: no image"
