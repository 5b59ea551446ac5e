"""The two stages of distilling a tiny policy, alone or in several processes."""

import dataclasses

import numpy as np
from tiny import tiny
from training_samples import samples

from grids_ros.train.initial_checkpoint import prune
from grids_ros.train.loop import Trainer
from grids_ros.train.parallel import join
from grids_ros.train.recipe import Recipe

DISTIL = Recipe(steps=4, batch=4, warm_up=2, distil=True)
TUNE = Recipe(steps=4, batch=4, warm_up=2)
LOW = dataclasses.replace(TUNE, lora=2)


def own_data(count=24):
    """Samples of somebody's robot, which say nothing about where objects are."""
    data = samples(count)
    return dataclasses.replace(data, objects=np.full_like(data.objects, np.nan))


def pruned():
    return prune(tiny(None), "dense", 4, 0)


def trainer(recipe, **options):
    return Trainer(pruned(), own_data(), recipe, **options)


def advance(trainer, folder, steps=None):
    for _ in trainer.run(folder / "losses.jsonl", trainer.first + steps if steps else trainer.last):
        pass
    return trainer


def together(folder, shard=False, stop=0):
    """Two steps of each stage in the processes that the environment names; the weights of each stage.

    stop: interrupt the second stage after so many steps, and go on from its state.
    """

    def weights(one):
        return {name: tensor.read().clone() for name, tensor in one.weights().items()}

    def stages(world):
        first = advance(trainer(DISTIL, world=world, shard=shard), folder, 2)
        found = [weights(first)]
        second = Trainer(first.checkpoint, own_data(), TUNE, world, after=first, shard=shard)
        if stop:
            advance(second, folder, stop).save(folder.parent / "state")
            second = Trainer(pruned(), own_data(), TUNE, world, shard=shard)
            second.resume(folder.parent / "state")
        found.append(weights(advance(second, folder, 2)))
        found.append(weights(advance(trainer(LOW, world=world, shard=shard), folder, 2)))
        return found

    with join("cpu") as world:
        return stages(world)  # no trainer outlives its processes
