"""What goes before a demonstration, unrecorded: another cube is gone for, or a policy acts until it is taken over from.

The latter shows recoveries from where a policy gets itself to, in place of where a disturbance does: S. Ross et al.,
DAgger, arXiv 1011.0686; taken over once, not mixed, as M. Kelly et al., HG-DAgger, arXiv 1810.02890.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

from grids_ros.evaluate.episode import EpisodeResult, PolicyLike, rollout
from grids_ros.sim.disturbance import Detour
from grids_ros.sim.expert import PERIOD_S, Expert
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import Task

TAKEN_OVER_S = (1.0, 9.0)  # when; a policy that succeeds does so in the first half of it
DELAY_S = 0.06  # from the policy's observation to its chunk
_LIMIT_S = 12.0  # on the way to the cube that was named at first

Prelude = Callable[[Scene], bool]  # acts in the scene; False when no demonstration is to follow


def detoured(detour: Detour) -> Prelude:
    """The demonstrator goes for the cube that was named at first; nothing follows when it is not reached in time."""

    def prelude(scene: Scene) -> bool:
        expert = Expert(detour.task)
        while not detour.over(scene):
            if scene.time_s > _LIMIT_S:
                return False
            scene.step(*expert.act(scene), PERIOD_S)
        return True

    return prelude


def attempted(policy: PolicyLike, task: Task, seed: int, until_s: float) -> Prelude:
    """The policy does the task in the scene of this seed; nothing follows when it succeeds in time."""

    def prelude(scene: Scene) -> bool:
        for event in rollout(policy, scene, task, seed, repeat(DELAY_S)):
            if isinstance(event, EpisodeResult):
                return not event.success
            if scene.time_s >= until_s:
                return True
        raise RuntimeError(f"the episode with seed {seed} ended without a result")

    return prelude
