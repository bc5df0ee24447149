"""A rule of your own for right answers: off by one will do. `--judge own_judge:close_enough`"""

from visualzoom.envs import Task
from visualzoom.rewards import is_correct


def close_enough(task: Task, answer: str) -> bool:
    if is_correct(task, answer):
        return True
    digits = (task.answer, answer.strip())
    return all(one.isdecimal() and len(one) < 10 for one in digits) and abs(int(digits[0]) - int(digits[1])) <= 1
