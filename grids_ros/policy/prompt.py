"""How an instruction, and for π0.5 the state, becomes the text that a policy was trained with.

Sources: openpi `models/tokenizer.py`; lerobot `policies/pi05/processor_pi05.py`, `processor/newline_task_processor.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROUNDING = 5e-7  # of a normalised number in float32: the middle and the ends of a range fall on the edge of a bin
BINS = np.linspace(-1.0, 1.0, 257)[:-1]  # of the state in a prompt: 256, and -1 for what is below


@dataclass(frozen=True)
class PromptFormat:
    """A part of what a policy learnt.

    clean: no space around the instruction; `_` and line breaks inside become spaces. line_break: the text ends with
    one. state: "Task: ..., State: ...;\\nAction: ", with an integer for each number of the normalised state.
    state_width: zeros are added to the state up to so many numbers, as lerobot 0.4.0 to 0.4.4 does; 0 for none.
    """

    clean: bool = False
    line_break: bool = False
    state: bool = False
    state_width: int = 0

    def text(self, instruction: str, state: np.ndarray | None = None) -> str:
        """The text for an instruction and a normalised state (n,). Raises ValueError when the state is missing."""
        if self.clean:
            instruction = instruction.strip().replace("_", " ").replace("\n", " ")
        if self.state:
            if state is None:
                raise ValueError("the prompt of this policy holds the state, and there is none")
            numbers = " ".join(map(str, integers(state, self.state_width)))
            return f"Task: {instruction}, State: {numbers};\nAction: "
        instruction = instruction.removesuffix("\n")  # what follows adds the only one
        return f"{instruction}\n" if self.line_break else instruction


def integers(state: np.ndarray, width: int = 0) -> list[int]:
    """A normalised state (n,) as integers, -1 to 255: the bin of each number among 256 of [-1, 1].

    A number on the edge of a bin, but for rounding, is in the upper one.
    """
    padded = np.pad(state, (0, max(0, width - len(state))))
    return (np.digitize(padded + ROUNDING, BINS) - 1).tolist()
