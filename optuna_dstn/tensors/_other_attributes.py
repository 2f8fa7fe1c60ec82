"""Giving an object other attributes for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def other_attributes(item: Any, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Give an object other attributes inside; its own come back afterwards.

    The dictionary of an object comes before what its class has, methods and the parameters of a
    module included.
    """
    own = vars(item)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)
