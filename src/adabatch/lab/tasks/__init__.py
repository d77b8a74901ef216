"""Tasks by name. Importing this loads no torch; `Task.load` does.

To add one: a file with its `Task`, and a line in `_TASKS`.
"""

from __future__ import annotations

from typing import Final

from adabatch import _checks
from adabatch.lab.tasks.cifar import CIFAR10, CIFAR100
from adabatch.lab.tasks.digits import DIGITS
from adabatch.lab.tasks.imagenet import IMAGENET
from adabatch.lab.tasks.mnist import FASHION_MNIST, MNIST
from adabatch.lab.tasks.task import Data, Task
from adabatch.lab.tasks.text import GPT_TINY

__all__ = ["Data", "Task", "get", "names"]
_TASKS: Final = {task.name: task for task in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, CIFAR100, IMAGENET, GPT_TINY)}


def names() -> list[str]:
    """The names of all tasks."""
    return list(_TASKS)


def get(name: str) -> Task:
    """The task `name`.

    Raises:
        ValueError: if there is no such task.

    Example:
        >>> get("digits").default_model
        'small_cnn'
    """
    task: Task = _TASKS[_checks.one_of("task", name, _TASKS)]
    return task
