"""The sampler against mathematics: constants, linear maps, an independent formula, finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grids_ros.sampler import BORDERS, GridSampler, SamplerConfig, fade, image_fractions, sample_bilinear

sizes = st.integers(1, 9)
unit = st.floats(0.0, 1.0, width=32)


def numpy_bilinear(features: np.ndarray, x: float, y: float, align_corners: bool) -> np.ndarray:
    """One reading of (H, W, C), written with hat functions: a sum over every cell, no corner cases."""
    height, width, _ = features.shape
    px = x * (width - 1) if align_corners else np.clip(x * width - 0.5, 0, width - 1)
    py = y * (height - 1) if align_corners else np.clip(y * height - 0.5, 0, height - 1)
    wx = np.maximum(0.0, 1.0 - np.abs(np.arange(width) - px))
    wy = np.maximum(0.0, 1.0 - np.abs(np.arange(height) - py))
    return np.einsum("h,w,hwc->c", wy, wx, features)


@settings(max_examples=100, deadline=None)
@given(sizes, sizes, st.lists(st.tuples(unit, unit), min_size=1, max_size=8), st.booleans(), st.integers(0, 2**31))
def test_equals_an_independent_formula(height, width, points, align_corners, seed):
    features = np.random.default_rng(seed).normal(size=(2, height, width, 3))
    coordinates = torch.tensor([points, points[::-1]], dtype=torch.float64)
    read = sample_bilinear(torch.from_numpy(features), coordinates, align_corners).numpy()
    for b in range(2):
        for k, (x, y) in enumerate(coordinates[b].tolist()):
            expected = numpy_bilinear(features[b], x, y, align_corners)
            np.testing.assert_allclose(read[b, k], expected, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(sizes, sizes, unit, unit, st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_constant_map_gives_the_constant_anywhere(height, width, x, y, align_corners, dtype):
    features = torch.full((1, height, width, 4), 0.7, dtype=dtype)
    points = torch.tensor([[(x, y), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)]])
    read = sample_bilinear(features, points, align_corners)
    assert read.dtype == dtype
    torch.testing.assert_close(read, torch.full_like(read, 0.7), rtol=1e-6, atol=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), unit, unit)
def test_a_linear_map_gives_the_exact_coordinate(height, width, x, y):
    ys, xs = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    features = torch.stack([xs, ys], dim=-1)[None].double()
    point = torch.tensor([[[x, y]]], dtype=torch.float64)
    torch.testing.assert_close(sample_bilinear(features, point, align_corners=True), point, rtol=0, atol=1e-6)


@pytest.mark.parametrize("align_corners", [True, False])
def test_agrees_with_torch_inside_the_map(align_corners):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 7, 4, generator=generator)
    points = torch.rand(3, 6, 2, generator=generator)
    expected = torch.nn.functional.grid_sample(
        features.permute(0, 3, 1, 2), points[:, None] * 2 - 1, align_corners=align_corners, padding_mode="border"
    )
    torch.testing.assert_close(sample_bilinear(features, points, align_corners), expected[:, :, 0].permute(0, 2, 1))


def test_a_map_that_is_zero_beyond_its_border_agrees_with_torch_anywhere():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 7, 4, generator=generator)
    inside = torch.rand(3, 40, 2, generator=generator)
    points = torch.cat([inside, torch.tensor([[(0, 0), (1, 1), (0.02, 0.98), (0.5, 1)]] * 3)], 1)
    grid = points[:, None] * 2 - 1
    expected = torch.nn.functional.grid_sample(features.permute(0, 3, 1, 2), grid, align_corners=False)
    read = sample_bilinear(features, points, align_corners=False) * fade(points, 5, 7)
    torch.testing.assert_close(read, expected[:, :, 0].permute(0, 2, 1))


@pytest.mark.parametrize("border", BORDERS)
def test_the_border_matters_in_the_outer_half_cells_alone(border):
    sampler = GridSampler(SamplerConfig(2, 3, align_corners=False, embed_coordinates=False, border=border)).eval()
    with torch.no_grad():
        sampler.coordinate_mlp[-1].weight.zero_()
        sampler.coordinate_mlp[-1].bias.copy_(torch.tensor([0.0, 0.0, -30.0, 0.0]))  # the middle, and the left edge
    tokens, _ = sampler(torch.ones(1, 4, 4, 3))
    torch.testing.assert_close(tokens[0, :, 0], torch.tensor([1.0, 0.5 if border == "zeros" else 1.0]))


@pytest.mark.parametrize("align_corners", [True, False])
def test_gradients_against_finite_differences(align_corners):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 4, 6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    points = (0.2 + 0.6 * torch.rand(2, 5, 2, dtype=torch.float64, generator=generator)).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, p: sample_bilinear(f, p, align_corners), (features, points))


VARIANTS = [
    {"align_corners": True},
    {"align_corners": False},
    {"layer_norm": True, "margin": 0.05, "noise": 0.1},
    {"embed_coordinates": False},
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tokens", [1, 4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_dtypes_and_range(variant, tokens, dtype):
    torch.manual_seed(0)
    sampler = GridSampler(SamplerConfig(tokens=tokens, channels=8, **variant)).to(dtype)
    read, coordinates = sampler(torch.randn(2, 5, 3, 8, dtype=dtype))
    assert read.shape == (2, tokens, 8) and read.dtype == dtype
    assert coordinates.shape == (2, tokens, 2) and coordinates.dtype == torch.float32
    read.float().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in sampler.parameters())


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 0.49), st.floats(-1e4, 1e4), st.integers(0, 2**31))
def test_coordinates_stay_inside_the_margin_even_when_the_sigmoid_saturates(margin, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    sampler = GridSampler(SamplerConfig(tokens=3, channels=4, margin=margin)).eval()
    coordinates = sampler.coordinates(scale * torch.randn(2, 3, 3, 4, generator=generator))
    assert (coordinates >= np.float32(margin)).all() and (coordinates <= np.float32(1.0 - margin)).all()


def test_a_saturated_sampler_still_reads_the_map():
    sampler = GridSampler(SamplerConfig(tokens=2, channels=3, embed_coordinates=False))
    torch.nn.init.constant_(sampler.coordinate_mlp[-1].bias, 1e6)
    read, coordinates = sampler(torch.ones(1, 4, 4, 3))
    assert (coordinates == 1.0).all()
    torch.testing.assert_close(read, torch.ones(1, 2, 3))


def test_noise_only_in_training():
    torch.manual_seed(0)
    sampler = GridSampler(SamplerConfig(tokens=4, channels=8, noise=0.5))
    features = torch.randn(1, 4, 4, 8)
    assert not torch.equal(sampler.train().coordinates(features), sampler.coordinates(features))
    assert torch.equal(sampler.eval().coordinates(features), sampler.coordinates(features))


@pytest.mark.parametrize("tokens", [1, 2, 4, 7, 16])
def test_grid_initialisation_spreads_the_points(tokens):
    torch.manual_seed(0)
    sampler = GridSampler(SamplerConfig(tokens=tokens, channels=8, layer_norm=True, margin=0.02)).eval()
    sampler.initialise_on_grid()
    points = sampler.coordinates(torch.randn(1, 6, 6, 8))[0]
    if tokens > 1:
        distance = torch.cdist(points, points) + torch.eye(tokens)
        assert distance.min() > 0.5 / np.ceil(np.sqrt(tokens))
    else:
        torch.testing.assert_close(points, torch.full((1, 2), 0.5), rtol=0, atol=0.1)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 8), st.integers(0, 8), st.booleans())
def test_image_fraction_of_a_cell_is_the_centre_of_its_patch(height, width, row, column, align_corners):
    row, column = row % height, column % width
    centre = torch.tensor([(column + 0.5) / width, (row + 0.5) / height])
    if align_corners:
        coordinate = torch.tensor([column / (width - 1), row / (height - 1)])
    else:
        coordinate = centre
    torch.testing.assert_close(image_fractions(coordinate, height, width, align_corners), centre)
    features = torch.zeros(1, height, width, 1)
    features[0, row, column] = 1.0
    read = sample_bilinear(features, coordinate.view(1, 1, 2), align_corners)
    assert read.item() == pytest.approx(1.0, abs=1e-5)


def test_export_keeps_the_result():
    torch.manual_seed(0)
    sampler = GridSampler(SamplerConfig(tokens=4, channels=8)).eval()
    features = torch.randn(2, 5, 6, 8)
    exported = torch.export.export(sampler, (features,)).module()
    for have, want in zip(exported(features), sampler(features), strict=True):
        torch.testing.assert_close(have, want)


def test_compile_has_no_graph_break_and_keeps_the_result_and_gradient():
    torch.manual_seed(0)
    sampler = GridSampler(SamplerConfig(tokens=4, channels=8)).eval()
    compiled = torch.compile(sampler, fullgraph=True, backend="aot_eager")
    features = torch.randn(2, 5, 6, 8)
    results = []
    for module in (sampler, compiled):
        leaf = features.clone().requires_grad_()
        read, coordinates = module(leaf)
        (read.square().sum() + coordinates.sum()).backward()
        results.append((read.detach(), coordinates.detach(), leaf.grad))
    for have, want in zip(*results, strict=True):
        torch.testing.assert_close(have, want)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens": 0, "channels": 4}, "tokens is 0"),
        ({"tokens": 1, "channels": 0}, "channels is 0"),
        ({"tokens": 1, "channels": 4, "margin": 0.5}, r"expected a value in \[0, 0.5\)"),
        ({"tokens": 1, "channels": 4, "noise": -1.0}, "noise is -1"),
        ({"tokens": 1, "channels": 4, "border": "mirror"}, "border is 'mirror', expected 'replicate' or 'zeros'"),
    ],
)
def test_configuration_out_of_range_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**values)


def test_configuration_round_trip_and_unknown_key():
    config = SamplerConfig(tokens=4, channels=8, margin=0.1)
    assert SamplerConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="expected .*align_corners"):
        SamplerConfig.from_dict({**config.to_dict(), "scale": 1.0})
    older = {name: value for name, value in config.to_dict().items() if name != "border"}
    assert SamplerConfig.from_dict(older) == config


def test_a_map_with_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"expected \(B, H, W, 8\)"):
        GridSampler(SamplerConfig(tokens=1, channels=8))(torch.zeros(1, 4, 4, 7))


def test_fewer_tokens_are_the_first_of_all():
    sampler, features = GridSampler(SamplerConfig(tokens=6, channels=8)).eval(), torch.randn(2, 4, 4, 8)
    tokens, coordinates = sampler(features)
    sampler.use(2)
    fewer, first = sampler(features)
    assert torch.equal(first, coordinates[:, :2])
    torch.testing.assert_close(fewer, tokens[:, :2])
    for wrong in (0, 7):
        with pytest.raises(ValueError, match="expected 1 to 6"):
            sampler.use(wrong)


def test_at_first_a_token_is_what_was_read_and_then_it_says_where():
    sampler, features = GridSampler(SamplerConfig(tokens=3, channels=5)).eval(), torch.randn(2, 4, 6, 5)
    tokens, coordinates = sampler(features)
    read = sample_bilinear(features, coordinates, align_corners=True)
    assert torch.equal(tokens, read)
    torch.nn.init.normal_(sampler.coordinate_embedding[-1].weight)
    torch.testing.assert_close(sampler(features)[0], read + sampler.coordinate_embedding(coordinates))
