"""Inference recorded once and replayed on other inputs, its kernels counted and its layers compiled, without a GPU."""

import shutil

import numpy as np
import pytest
import tape
import torch
from families import FAMILIES, family, restless
from inference import inputs, observation
from tiny import INSTRUCTIONS, SIZE, tiny
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from grids_ros.bench import kernels, sizes
from grids_ros.control.continuity import Continuation
from grids_ros.policy import runner
from grids_ros.policy.arithmetic import Products
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attach, attached, detach
from grids_ros.policy.products import packs
from grids_ros.policy.rtc import Guidance
from grids_ros.policy.runner import CACHE, Backend, backends
from grids_ros.policy.runtime import Policy
from grids_ros.policy.towers import EAGER, compiled, compiled_for_any_length
from grids_ros.sampler import GridSampler, SamplerConfig

PLAIN = Backend("eager", lambda: EAGER)
WAYS = [tape.backend(), PLAIN]


def arguments(seed, guided=False, batch=1):
    """Of `Engine.sample_actions`, another observation with every seed."""
    values = torch.Generator().manual_seed(100 + seed)
    targets = torch.randn(1, batch, 6, 7, generator=values)
    guidance = Guidance(targets, torch.rand(6, 7, generator=values)) if guided else None
    return (*inputs(tiny(4), batch=batch, seed=seed).values(), guidance)


def engines(model, ways=WAYS, **options):
    """The one that is tested, and a plain one of the same model."""
    return Engine(model, 3, ways=ways, **options), Engine(model, 3, ways=[PLAIN], **options)


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("bucket", [1, 8])
def test_a_recording_replayed_on_other_inputs_gives_their_actions(guided, bucket, products):
    recorded, plain = engines(restless(tiny(4).model), products=products, bucket=bucket)
    recorded.prepare([(arguments(0, guided), arguments(1, guided))])
    assert recorded.backend == "taped"
    for seed in range(2, 5):
        have, wanted = (engine.sample_actions(*arguments(seed, guided)) for engine in (recorded, plain))
        torch.testing.assert_close(have, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(recorded.coordinates, plain.coordinates)


def test_what_a_recording_returned_stays_when_it_is_replayed():
    recorded, _ = engines(restless(tiny(4).model))
    recorded.prepare([(arguments(0), arguments(1))])
    first = recorded.sample_actions(*arguments(2))
    kept = first.clone()
    assert not torch.equal(recorded.sample_actions(*arguments(3)), kept)
    assert torch.equal(first, kept)


def test_what_was_not_prepared_runs_and_is_not_recorded():
    recorded, plain = engines(restless(tiny(4).model))
    recorded.prepare([(arguments(0), arguments(1))])
    for given in (arguments(2, guided=True), arguments(2, batch=2)):
        torch.testing.assert_close(recorded.sample_actions(*given), plain.sample_actions(*given))
    assert len(recorded._runner._recordings) == 1


def changed_tokens(model):
    attached(model).sampler.use(2)


def held(model):
    attached(model).sampler.hold(torch.full((2, 4, 2), 0.3))


def other_sampler(model):
    detach(model)
    attach(model, SamplerConfig(tokens=4, channels=SIZE.width)).sampler.eval()


@pytest.mark.parametrize("change", [changed_tokens, held, other_sampler])
def test_what_changes_the_meaning_takes_the_recordings_with_it(change):
    model = restless(tiny(4).model)
    recorded, plain = engines(model)
    recorded.prepare([(arguments(0), arguments(1))])
    before = recorded.sample_actions(*arguments(2))
    change(model)
    given = list(arguments(2))
    dropped = 2 * (4 - attached(model).sampler.active)  # placeholders of two cameras
    given[1], given[2] = given[1][:, dropped:], given[2][:, dropped:]
    wanted = plain.sample_actions(*given)
    torch.testing.assert_close(recorded.sample_actions(*given), wanted)
    assert not torch.allclose(wanted, before, atol=1e-4)


# --- backends that fail ------------------------------------------------------------------------------------------


def deaf(function, given):
    """A recording that repeats what it was made with: what capture on another device than the kernels' leaves."""
    outputs = function(*given)
    return lambda: None, outputs


def broken(function, given):
    raise RuntimeError("operation not permitted when stream is capturing\nand a trace")


def of_another_stride(function, given):
    raise AssertionError("expected size 3==3, stride 4==1 at dim=0")  # Inductor's check of what it is given


def compiled_too_often(function, given):
    raise FailOnRecompileLimitHit("recompile_limit reached with fullgraph=True")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (deaf, "output 0 is off by"),
        (broken, "operation not permitted"),
        (of_another_stride, "expected size 3==3"),
        (compiled_too_often, "recompile_limit reached"),
    ],
)
def test_a_backend_that_disagrees_is_logged_once_and_never_used(record, reason, caplog):
    recorded, plain = engines(restless(tiny(4).model), [tape.backend(record), PLAIN])
    recorded.prepare(
        [(arguments(seed, guided), arguments(seed + 1, guided)) for seed, guided in ((0, False), (2, True))]
    )
    assert recorded.backend == "eager"
    (line,) = [entry for entry in caplog.records if entry.levelname == "ERROR"]
    assert reason in line.message and "'eager' goes on" in line.message
    torch.testing.assert_close(recorded.sample_actions(*arguments(5)), plain.sample_actions(*arguments(5)))


def test_a_layer_function_that_is_wrong_is_found(caplog):
    wrong = EAGER._replace(decoder=lambda x, *rest: EAGER.decoder(x.roll(1, -1), *rest))
    engine, plain = engines(restless(tiny(4).model), [Backend("wrong", lambda: wrong), PLAIN])
    engine.prepare([(arguments(0), arguments(1))])
    assert engine.backend == "eager" and "'wrong' is not used" in caplog.text
    torch.testing.assert_close(engine.sample_actions(*arguments(2)), plain.sample_actions(*arguments(2)))


# --- compiled ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_the_layer_functions_compiled_by_inductor_act_as_they_do_without(products, caplog, monkeypatch):
    """Whole, without a break: the recording is ours. RTC and padding included."""
    monkeypatch.setenv(CACHE, default_cache_dir())
    ways = [Backend("compiled", compiled), PLAIN]
    engine, plain = engines(restless(tiny(4).model), ways, products=products, bucket=8)
    engine.prepare([(arguments(0, guided), arguments(1, guided)) for guided in (False, True)])
    assert engine.backend == "compiled", caplog.text
    for guided in (False, True):
        have, wanted = (each.sample_actions(*arguments(2, guided)) for each in (engine, plain))
        limit = 1e-4 if products == torch.float32 else 0.02
        assert (have - wanted).square().mean().sqrt() < limit * wanted.std()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("name", FAMILIES)
def test_after_its_warm_up_a_compiled_policy_compiles_for_no_prompt(name, caplog, monkeypatch):
    """Of any length, with RTC and without; packed weights where the processor packs them."""
    monkeypatch.setenv(CACHE, default_cache_dir())
    monkeypatch.setattr("grids_ros.policy.engine.choose", lambda *_: Products(torch.bfloat16, packed=packs()))
    policies = []
    for ways in ([PLAIN], [Backend("compiled", compiled_for_any_length), PLAIN]):
        monkeypatch.setattr("grids_ros.policy.engine.backends", lambda *_, ways=ways: ways)
        checkpoint = family(name)
        restless(checkpoint.model)
        policies.append(Policy(checkpoint))
        policies[-1].warm_up()
    plain, fast = policies
    assert fast.backend == "compiled", caplog.text
    monkeypatch.setattr(runner, "UNPREPARED", "fail_on_recompile")
    previous = Continuation(plain.infer(observation()).chunk, delay_s=0.1)
    for instruction in ("lift", "lift the red cube", INSTRUCTIONS[-1]):
        for continuation in (None, previous):
            seen = observation(instruction, seed=len(instruction))
            have, wanted = (each.infer(seen, continuation=continuation).chunk.positions for each in (fast, plain))
            assert np.sqrt(np.square(have - wanted).mean()) < 0.03 * wanted.std()


def test_a_length_that_nothing_was_compiled_for_runs_as_it_is(monkeypatch):
    monkeypatch.setenv(CACHE, default_cache_dir())
    engine, plain = engines(restless(tiny(4).model), [Backend("compiled", compiled), PLAIN])
    engine._runner._layers = compiled()  # as after `prepare`, of other shapes
    pixels, ids, mask, *rest = arguments(2)
    short = 2 * 4 + 3  # placeholders and words
    given = pixels, ids[:, :short], mask[:, :short] | True, *rest
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.testing.assert_close(engine.sample_actions(*given), plain.sample_actions(*given))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_a_cpu_compiles_models_in_bfloat16_alone_and_with_a_compiler(monkeypatch):
    def names(bfloat16):
        return [way.name for way in backends(torch.device("cpu"), bfloat16)]

    monkeypatch.setenv("CXX", "sh")
    assert (names(True), names(False)) == (["compiled", "eager"], ["eager"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert names(True) == ["eager"]


# --- on the meta device ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_size():
    """π0 as published with GridS-16, two cameras, ten steps, 16 text tokens: nothing of it in memory."""
    model = sizes.make(sizes.size("full"), "meta")
    attach(model, SamplerConfig(tokens=16, channels=2048)).sampler.eval()
    return Engine(model, 10)


def walk(engine, guided=False):
    shape = torch.empty
    with torch.device("meta"):
        ids, mask = torch.zeros(1, 16, dtype=torch.long), torch.ones(1, 48, dtype=torch.bool)
        drawn = (shape(1, 1, 50, 32), shape(50, 32)) if guided else (None, None)
        given = shape(1, 2, 3, 224, 224), ids, mask, shape(1, 32), shape(1, 50, 32), *drawn
    with torch.inference_mode():
        return kernels.count(engine._infer, *given)


def test_one_inference_neither_waits_nor_uploads_and_launches_so_many_kernels(full_size):
    """27 + 17 + 180 layers with attention; what is launched more than now was added by somebody."""
    free = walk(full_size)
    assert free.attention == 224 and free.products == 934
    assert free.total <= 4270


def test_a_guided_inference_launches_hardly_more(full_size):
    free, guided = walk(full_size), walk(full_size, guided=True)
    assert guided.attention == free.attention, "no gradient goes through a layer"
    assert guided.total <= 1.12 * free.total


@pytest.mark.parametrize(
    "fault", [lambda x: float(x.sum()), lambda x: x + torch.ones(3).to(x.device), lambda x: x[x > 0]]
)
def test_the_walk_finds_what_no_recording_can_hold(fault):
    with pytest.raises((kernels.NotRecordable, NotImplementedError, RuntimeError)):
        kernels.count(fault, torch.empty(3, device="meta"))


def test_the_walk_counts_kernels_and_no_views():
    x = torch.empty(4, 6, device="meta")
    found = kernels.count(lambda: ((x.T @ x).view(36).to(torch.bfloat16) + 1).unflatten(0, (6, 6)))
    assert (found.products, found.conversions, found.others, found.total) == (1, 1, 1, 3)


def test_the_sampler_says_what_it_holds():
    sampler, points = GridSampler(SamplerConfig(tokens=4, channels=8)), torch.zeros(1, 4, 2)
    assert sampler.held is None
    sampler.hold(points)
    assert sampler.held is points
