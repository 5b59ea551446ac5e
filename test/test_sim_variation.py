"""Scenes out of distribution: each kind changes what it names and nothing else, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from grids_ros.sim.expert import PERIOD_S, Expert
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import STACK_TASKS, SuccessMonitor
from grids_ros.sim.variation import KINDS, WORKSPACE, Variation, draw

SEED = 42
LOOKS = ("table", "light", "camera")  # change images alone


@pytest.fixture(scope="module")
def usual() -> Scene:
    scene = Scene(SEED, 48)
    yield scene
    scene.close()


def varied(kind: str, seed: int = SEED) -> Scene:
    return Scene(seed, 48, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_variation_follows_from_the_seed(kind):
    first, again, other = draw(kind, 3), draw(kind, 3), draw(kind, 4)
    assert first == again != Variation()
    assert kind == "positions" or first != other, "positions vary by where the scene puts its objects"


def test_all_is_every_kind_at_once():
    every = draw("all", 5)
    assert every.distractors == draw("distractors", 5).distractors
    assert every.table == draw("table", 5).table and every.light == draw("light", 5).light
    assert every.cameras == draw("camera", 5).cameras and every.region == draw("positions", 5).region


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'fog'.*distractors, table, light, camera, positions, all"):
        draw("fog", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_both_cameras_see_the_difference_and_it_repeats(usual, kind):
    usual.reset(SEED)
    scene = varied(kind)
    assert (scene.render("base") != usual.render("base")).any()
    if kind in LOOKS:
        assert (scene.render("wrist") != usual.render("wrist")).any()
    image = scene.render("base")
    scene.reset(SEED + 1)
    assert (scene.render("base") != image).any()
    scene.reset(SEED)
    np.testing.assert_array_equal(scene.render("base"), image)
    scene.close()


@pytest.mark.parametrize("kind", [*LOOKS, "distractors"])
def test_objects_and_arm_start_where_they_always_do(usual, kind):
    usual.reset(SEED)
    scene = varied(kind)
    for name, position in usual.object_positions().items():
        np.testing.assert_allclose(scene.object_positions()[name], position, atol=1e-6)
    np.testing.assert_allclose(scene.joint_positions(), usual.joint_positions(), atol=1e-6)


def test_unseen_positions_lie_outside_the_workspace_and_in_view():
    scene = varied("positions")
    for seed in range(20):
        scene.reset(seed)
        view, matrix = scene.camera_pose("base"), scene.camera_intrinsics("base")
        for centre in scene.object_positions().values():
            assert centre[:2] not in WORKSPACE
            ray = matrix @ Rotation.from_quat(view.quaternion).inv().apply(centre - view.position)
            assert (0.0 < ray[:2] / ray[2]).all() and (ray[:2] / ray[2] < scene.image_size).all()


def test_the_demonstrations_workspace_has_its_inside_and_its_outside():
    assert np.array([0.5, 0.0]) in WORKSPACE and np.array([0.5, 0.2]) not in WORKSPACE
    around = draw("positions", 0).region
    assert np.array([0.5, 0.0]) not in around and np.array([0.5, 0.2]) in around


def test_cameras_move_by_centimetres_and_degrees(usual):
    usual.reset(SEED)
    for seed in range(20):
        for name, (nearest, furthest) in {"base": (0.02, 0.05), "wrist": (0.006, 0.015)}.items():
            shift = draw("camera", seed).cameras[name]
            assert nearest <= np.linalg.norm(shift.translation) <= furthest
            assert 1.0 <= np.rad2deg(np.linalg.norm(shift.turn)) <= 4.0
    scene, shift = varied("camera"), draw("camera", SEED).cameras["base"]
    before, after = usual.camera_pose("base"), scene.camera_pose("base")
    np.testing.assert_allclose(after.position - before.position, shift.translation, atol=1e-5)
    turn = Rotation.from_quat(before.quaternion).inv() * Rotation.from_quat(after.quaternion)
    assert turn.magnitude() == pytest.approx(np.linalg.norm(shift.turn), abs=1e-4)


def test_distractors_leave_room_for_the_fingers():
    for seed in range(10):
        scene = varied("distractors", seed)
        extra = scene.distractor_positions()
        assert len(extra) == len(scene.variation.distractors) == 3
        for place in extra:
            for name, position in scene.object_positions().items():
                assert np.linalg.norm(place[:2] - position[:2]) > (0.12 if name == "bowl" else 0.095)


def test_every_kind_at_once_leaves_the_task_possible():
    scene, task = varied("all", 7), STACK_TASKS[1]
    expert, monitor = Expert(task), SuccessMonitor(task)
    while not monitor.update(scene):
        scene.step(*expert.act(scene), PERIOD_S)
        assert scene.time_s < 10.0


def test_the_light_is_clearly_weaker_or_stronger():
    for seed in range(10):
        strength = np.mean(np.divide(draw("light", seed).light.ambient, Variation().light.ambient))
        assert 0.42 < strength < 0.81 or 1.1 < strength < 1.85
