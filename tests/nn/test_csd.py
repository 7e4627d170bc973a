"""Cross-scale sampling: where its points lie, what they read, and which levels a cell can see."""

from __future__ import annotations

from math import floor, pi, sin

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.testing import assert_close

from alignrank.nn.csd import (
    CrossScaleSampling,
    SamplingPlan,
    cell_centres,
    neighbours,
    ring,
    sampling_grid,
    weighted_samples,
)

WIDTH = 8
CHANNELS = (6, 8, 12)
STRIDES = (8, 16, 32)


def bilinear(value: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """value [D,H,W] at the place (x, y), in cells from the corner of the map -> [D]; zeros outside of the map.

    The value of a cell stands at its centre, half a cell from its edge. Plain: four neighbours, one at a time.
    """
    height, width = value.shape[-2:]
    column, row = x - 0.5, y - 0.5
    left, top = floor(column.item()), floor(row.item())
    total = torch.zeros_like(value[:, 0, 0])
    for i, of_row in ((top, 1 - (row - top)), (top + 1, row - top)):
        for j, of_column in ((left, 1 - (column - left)), (left + 1, column - left)):
            if 0 <= i < height and 0 <= j < width:
                total = total + value[:, i, j] * of_row * of_column
    return total


def randomise(module: nn.Module, std: float = 0.5) -> None:
    """Every parameter away from its initial value."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)


def test_cell_centres() -> None:
    """Three cells on -1..1 are 2/3 wide: centres -2/3, 0, 2/3; two: -1/2, 1/2. Row by row, x first."""
    expected = [[-2 / 3, -1 / 2], [0, -1 / 2], [2 / 3, -1 / 2], [-2 / 3, 1 / 2], [0, 1 / 2], [2 / 3, 1 / 2]]
    assert_close(cell_centres(2, 3), torch.tensor(expected))
    assert_close(cell_centres(1, 1), torch.zeros(1, 2))


def test_offset_is_in_cells_of_the_sampled_map() -> None:
    """(2, 1) cells on from each cell: value[y + 1, x + 2], or zero where that is outside. (1/2, 0): mean of two."""
    value = torch.randn(1, 1, 3, 5, dtype=torch.float64)
    centres, ones = cell_centres(3, 5).double(), torch.ones(1, 15, 1, 1, dtype=torch.float64)

    def moved(x: float, y: float) -> Tensor:
        grid = sampling_grid(centres, torch.tensor([x, y], dtype=torch.float64), (3, 5))
        return weighted_samples(value, grid[None, :, None, None], ones).reshape(3, 5)

    assert_close(moved(0, 0), value[0, 0], rtol=1e-6, atol=1e-6)
    shifted = torch.zeros(3, 5, dtype=torch.float64)
    shifted[:2, :3] = value[0, 0, 1:, 2:]
    assert_close(moved(2, 1), shifted, rtol=1e-6, atol=1e-6)
    assert_close(moved(0.5, 0)[:, :4], (value[0, 0, :, :4] + value[0, 0, :, 1:]) / 2, rtol=1e-6, atol=1e-6)
    assert_close(moved(0.5, 0)[:, 4], value[0, 0, :, 4] / 2, rtol=1e-6, atol=1e-6)
    assert moved(5.5, 0).abs().max() == 0


@pytest.mark.parametrize("size", [(3, 5), (1, 1), (4, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_weighted_samples_equals_plain_loops(size: tuple[int, int], groups: int) -> None:
    """Values and gradients of value, grid and weights; some points lie partly and some wholly out of the map."""
    height, width = size
    value = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    grid = (torch.rand(2, 7, groups, 3, 2, dtype=torch.float64) * 4 - 2).requires_grad_()
    weights = torch.randn(2, 7, groups, 3, dtype=torch.float64, requires_grad=True)
    actual = weighted_samples(value, grid, weights)
    images = []
    for b in range(2):
        cells = []
        for n in range(7):
            parts = []
            for g, part in enumerate(value[b].chunk(groups)):
                places = (grid[b, n, g] + 1) / 2 * torch.tensor([width, height])
                parts.append(sum(weights[b, n, g, k] * bilinear(part, *places[k]) for k in range(3)))
            cells.append(torch.cat(parts))
        images.append(torch.stack(cells, -1))
    expected = torch.stack(images)
    assert actual.shape == (2, 4, 7)
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(actual)
    inputs = [value, grid, weights]
    for one, other in zip(
        torch.autograd.grad(actual, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert one.abs().max() > 0
        assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_points_out_of_the_map_read_zeros() -> None:
    value = torch.ones(1, 2, 4, 4)
    for place in ([-1.5, 0.0], [0.0, 1.5], [40.0, -40.0]):
        grid = torch.tensor(place).expand(1, 1, 1, 1, 2)
        assert weighted_samples(value, grid, torch.ones(1, 1, 1, 1)).abs().max() == 0


def test_autocast_leaves_coordinates_alone() -> None:
    """On a map of 80 columns whose value is the column, bfloat16 places near 1 would be off by tenths of a column."""
    value = torch.arange(80.0).expand(1, 1, 2, 80)
    grid = torch.rand(1, 50, 1, 2, 2) * 0.9
    weights = torch.rand(1, 50, 1, 2)
    expected = weighted_samples(value, grid, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(weighted_samples(value, grid, weights), expected)
        assert weighted_samples(value.bfloat16(), grid, weights).dtype == torch.float32


@pytest.mark.parametrize(
    ("groups", "levels", "points"), [(1, 1, 1), (1, 2, 2), (4, 3, 4), (2, 3, 3), (3, 1, 5), (4, 2, 1)]
)
def test_ring(groups: int, levels: int, points: int) -> None:
    """G*K different points of radius 1 on each level, evenly spread: the closest are 2 sin(pi / GK) apart."""
    offsets = ring(groups, levels, points)
    assert offsets.shape == (groups, levels, points, 2)
    assert_close(offsets.norm(dim=-1), torch.ones(groups, levels, points))
    for level in range(levels):
        places = offsets[:, level].reshape(-1, 2).double()
        if len(places) > 1:
            assert nn.functional.pdist(places).min().item() == pytest.approx(2 * sin(pi / len(places)), rel=1e-5)


def test_plan() -> None:
    """At first the ring, all weights alike; later no offset beyond 8 cells, and a group's weights sum to 1."""
    plan = SamplingPlan(WIDTH, 2, 3, 4)
    features = torch.randn(2, 5, WIDTH)
    x, y, weights = plan(features)
    assert_close(torch.stack([x, y], -1), ring(2, 3, 4).expand(2, 5, 2, 3, 4, 2))
    assert_close(weights, torch.full((2, 5, 2, 3, 4), 1 / 12))
    randomise(plan, std=20)
    x, y, weights = plan(features)
    assert x.abs().max() == y.abs().max() == 8
    assert_close(weights.sum((-1, -2)), torch.ones(2, 5, 2))


def test_neighbours() -> None:
    """The level, and what lies beside it; absent ones are not replaced."""
    assert [list(neighbours(i, 4)) for i in range(4)] == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]
    assert list(neighbours(0, 1)) == [0]


# The dense form.

DENSE_SIZES = [
    [(5, 7)],
    [(1, 1)],
    [(5, 7), (3, 4)],
    [(2, 2), (1, 1)],
    [(5, 7), (3, 4), (2, 2)],
    [(3, 4), (2, 2), (1, 1)],
]


def maps(sizes: list[tuple[int, int]]) -> list[Tensor]:
    return [torch.randn(2, c, h, w) for c, (h, w) in zip(CHANNELS, sizes, strict=False)]


def dense(levels: int, *, groups: int = 2, points: int = 3) -> CrossScaleSampling:
    """With exits and plans that are not zero, in evaluation mode."""
    module = CrossScaleSampling(CHANNELS[:levels], width=WIDTH, groups=groups, points=points)
    randomise(module.exit)
    for plan in module.plans:
        nn.init.normal_(plan.offsets.weight, std=0.2)
        nn.init.normal_(plan.weights.weight, std=0.5)
    return module.eval()


@pytest.mark.parametrize("sizes", DENSE_SIZES)
@pytest.mark.parametrize("training", [True, False])
def test_dense_identity_at_first(sizes: list[tuple[int, int]], training: bool) -> None:
    module = CrossScaleSampling(CHANNELS[: len(sizes)], width=WIDTH).train(training)
    inputs = maps(sizes)
    kept = [x.clone() for x in inputs]
    assert all(torch.equal(y, x) for y, x in zip(module(inputs), kept, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(inputs, kept, strict=True))


@pytest.mark.parametrize("sizes", DENSE_SIZES)
def test_dense_shapes(sizes: list[tuple[int, int]]) -> None:
    inputs = maps(sizes)
    outputs = dense(len(sizes))(inputs)
    assert [y.shape for y in outputs] == [x.shape for x in inputs]
    assert all(y.isfinite().all() and not torch.equal(x, y) for x, y in zip(inputs, outputs, strict=True))


def test_dense_sees_adjacent_levels_only() -> None:
    module, inputs = dense(3), maps([(5, 7), (3, 4), (2, 2)])
    with torch.no_grad():
        before = module(inputs)
        for moved in range(3):
            others = [x + torch.randn_like(x) if i == moved else x for i, x in enumerate(inputs)]
            for level, (a, b) in enumerate(zip(module(others), before, strict=True)):
                if abs(level - moved) > 1:
                    assert torch.equal(a, b), f"level {level} sees level {moved}"
                else:
                    assert (a - b).abs().max() > 1e-4, f"level {level} does not see level {moved}"


def test_dense_equals_plain_loops() -> None:
    """What the exit is given: the reduced map and, of each cell, weighted points around its centre on each level."""
    module, groups, points = dense(3).double(), 2, 3
    inputs = [x[:1].double() for x in maps([(4, 6), (2, 3), (1, 2)])]
    reduced = [enter(x) for enter, x in zip(module.enter, inputs, strict=True)]
    values = [value(u) for value, u in zip(module.value, reduced, strict=True)]
    outputs = module(inputs)
    for level, (x, u) in enumerate(zip(inputs, reduced, strict=True)):
        height, width = u.shape[-2:]
        query, plan = module.query[level](u)[0], module.plans[level]
        seen = [m for m in range(3) if abs(m - level) <= 1]
        added = torch.zeros_like(u)
        for i in range(height):
            for j in range(width):
                offsets = plan.offsets(query[:, i, j]).clamp(-8, 8).reshape(2, groups, len(seen), points)
                weights = plan.weights(query[:, i, j]).reshape(groups, -1).softmax(-1).reshape(groups, -1, points)
                parts = []
                for g in range(groups):
                    part = torch.zeros(WIDTH // groups, dtype=torch.float64)
                    for at, m in enumerate(seen):
                        value = values[m][0].chunk(groups)[g]
                        for k in range(points):
                            # The centre as a share of the map is the same on all levels.
                            column = (j + 0.5) / width * value.shape[2] + offsets[0, g, at, k]
                            row = (i + 0.5) / height * value.shape[1] + offsets[1, g, at, k]
                            part = part + weights[g, at, k] * bilinear(value, column, row)
                    parts.append(part)
                added[0, :, i, j] = module.output(torch.cat(parts))
        # Centres are float32.
        assert_close(outputs[level], x + module.exit[level](u + added), rtol=1e-5, atol=1e-5)


def test_dense_gradient_reaches_every_parameter_and_map() -> None:
    module, inputs = dense(3).train(), [x.requires_grad_() for x in maps([(5, 7), (3, 4), (2, 2)])]
    sum((y * torch.randn_like(y)).sum() for y in module(inputs)).backward()
    for name, tensor in [*module.named_parameters(), *((f"map {i}", x) for i, x in enumerate(inputs))]:
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().max() > 0, name


def test_dense_bfloat16_is_near_float32() -> None:
    module, inputs = dense(2), maps([(5, 7), (3, 4)])
    expected = module(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = module(inputs)
    for y, x in zip(outputs, expected, strict=True):
        assert (y - x).abs().max() < 0.05 * x.abs().max()


# The topk form: maps of a 64 x 32 px image.

TOPK_SIZES = [(4, 8), (2, 4), (1, 2)]
FIRST = (0, 32, 40, 42)  # number of each level's first cell
CELLS = torch.tensor([[0, 13, 31, 32, 39, 40, 41, 13]])


def boxes_of(num_cells: int) -> Tensor:
    """[1,N,4] px: inside, across the edges of the image, and one narrower than a pixel; float64."""
    centre = torch.rand(1, num_cells, 2, dtype=torch.float64) * torch.tensor([64, 32])
    half = torch.rand(1, num_cells, 2, dtype=torch.float64) * 15 + 1
    half[0, 0, 0] = 0.2
    return torch.cat([centre - half, centre + half], -1)


def topk(channels: tuple[int, ...] = CHANNELS, *, groups: int = 2, points: int = 3) -> CrossScaleSampling:
    """With every part of the plan at work, in evaluation mode."""
    module = CrossScaleSampling(channels, width=WIDTH, groups=groups, points=points, form="topk")
    randomise(module, std=0.3)
    return module.eval()


def level_of(cell: int) -> int:
    return max(level for level in range(3) if cell >= FIRST[level])


def of_cells_in_loops(module: CrossScaleSampling, entered: list[Tensor], cells: Tensor, boxes: Tensor) -> Tensor:
    """One image: entered maps [D,H,W], cells [N], boxes [N,4] px -> [N,D]; each cell, group, level, point."""
    groups, levels, points = module.plan.shape
    rows = []
    for cell, box in zip(cells.tolist(), boxes, strict=True):
        own = level_of(cell)
        token = entered[own].flatten(1)[:, cell - FIRST[own]]
        centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=1) / 2
        in_cells = half / STRIDES[own]
        query = token + module.level[own] + module.box(torch.cat([in_cells, in_cells.log()]))
        offsets = module.plan.offsets(silu(query)).clamp(-8, 8).reshape(2, groups, levels, points)
        scores = module.plan.weights(silu(query)).reshape(groups, levels, points)
        seen = [m for m in range(levels) if abs(m - own) <= 1]
        parts = []
        for g in range(groups):
            total = sum(scores[g, m, k].exp() for m in seen for k in range(points))
            part = torch.zeros(WIDTH // groups, dtype=torch.float64)
            for m in seen:
                for k in range(points):
                    place = (centre + offsets[:, g, m, k] * half) / STRIDES[m]
                    value = bilinear(entered[m].chunk(groups)[g], place[0], place[1])
                    part = part + scores[g, m, k].exp() / total * value
            parts.append(part)
        rows.append(query + module.output(torch.cat(parts)))
    return torch.stack(rows)


@pytest.mark.parametrize(("groups", "points"), [(1, 1), (2, 3), (4, 2)])
def test_topk_equals_plain_loops(groups: int, points: int) -> None:
    module = topk(groups=groups, points=points).double()
    inputs, cells = [x[:1].double().requires_grad_() for x in maps(TOPK_SIZES)], CELLS
    boxes = boxes_of(cells.shape[1])
    actual = module.of_cells(inputs, cells, boxes, STRIDES)
    entered = [enter(x)[0] for enter, x in zip(module.enter, inputs, strict=True)]
    expected = of_cells_in_loops(module, entered, cells[0], boxes[0])[None]
    assert actual.shape == (1, cells.shape[1], WIDTH)
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    upstream = torch.randn_like(actual)
    wanted = [*inputs, module.plan.offsets.weight, module.plan.weights.weight, module.box.weight, module.level]
    for one, other in zip(
        torch.autograd.grad(actual, wanted, upstream), torch.autograd.grad(expected, wanted, upstream), strict=True
    ):
        assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_topk_images_do_not_mix(levels: int) -> None:
    module, inputs = topk(CHANNELS[:levels]), maps(TOPK_SIZES[:levels])
    cells = torch.stack([torch.randperm(FIRST[levels])[:6] for _ in range(2)])
    boxes = torch.cat([boxes_of(6), boxes_of(6)]).float()
    both = module.of_cells(inputs, cells, boxes, STRIDES[:levels])
    for b in range(2):
        alone = module.of_cells([x[b : b + 1] for x in inputs], cells[b : b + 1], boxes[b : b + 1], STRIDES[:levels])
        assert_close(both[b : b + 1], alone)


def test_topk_order_of_cells_is_free() -> None:
    module, inputs = topk().double(), [x[:1].double() for x in maps(TOPK_SIZES)]
    boxes, order = boxes_of(CELLS.shape[1]), torch.randperm(CELLS.shape[1])
    outputs = module.of_cells(inputs, CELLS, boxes, STRIDES)
    shuffled = module.of_cells(inputs, CELLS[:, order], boxes[:, order], STRIDES)
    assert_close(shuffled, outputs[:, order], rtol=1e-12, atol=1e-12)


def test_topk_sees_adjacent_levels_only() -> None:
    """A cell whose box covers the image sees its own and the adjacent maps, the others not in the last bit."""
    module, inputs = topk(groups=4, points=4), [x[:1] for x in maps(TOPK_SIZES)]
    # Every point lies within the image, so that every map in reach is read.
    nn.init.normal_(module.plan.offsets.weight, std=0.01)
    with torch.no_grad():
        module.plan.offsets.bias.copy_(SamplingPlan(WIDTH, 4, 3, 4).offsets.bias * 0.8)
    boxes = torch.tensor([0.0, 0, 64, 32]).expand(1, CELLS.shape[1], 4)
    with torch.no_grad():
        before = module.of_cells(inputs, CELLS, boxes, STRIDES)
        for moved in range(3):
            others = [x + torch.randn_like(x) if i == moved else x for i, x in enumerate(inputs)]
            after = module.of_cells(others, CELLS, boxes, STRIDES)
            for cell, a, b in zip(CELLS[0].tolist(), after[0], before[0], strict=True):
                if abs(level_of(cell) - moved) > 1:
                    assert torch.equal(a, b), f"cell {cell} sees level {moved}"
                else:
                    assert (a - b).abs().max() > 1e-4, f"cell {cell} does not see level {moved}"


def test_topk_reads_around_its_box() -> None:
    """The same cell with its box elsewhere, of the same size, reads other places; without a map it reads nothing."""
    module, cells = topk(), torch.tensor([[13, 13]])
    boxes = torch.tensor([[[4.0, 4, 20, 20], [40, 8, 56, 24]]])
    inputs = [x[:1] for x in maps(TOPK_SIZES)]
    here, there = module.of_cells(inputs, cells, boxes, STRIDES)[0]
    assert (here - there).abs().max() > 1e-4
    # Far out of the image all points read zeros: two such places are alike.
    away = torch.tensor([[[4004.0, 4, 4020, 20], [40, -9992, 56, -9976]]])
    here, there = module.of_cells(inputs, cells, away, STRIDES)[0]
    assert torch.equal(here, there)


@pytest.mark.parametrize("projected", [False, True])
def test_topk_bfloat16_keeps_coordinates(projected: bool) -> None:
    """A map of 80 columns whose value is the column: places in bfloat16 would be off by tenths of a column.

    Maps of the common width stay float32, and so does everything; projected ones are rounded, to 1/256 of their value.
    """
    module = topk((WIDTH + projected, WIDTH))
    ramp = torch.arange(80.0).expand(1, WIDTH + projected, 4, 80) / 8
    inputs = [ramp, torch.randn(1, WIDTH, 2, 40)]
    # A constant token keeps the plan the same where the projection rounds it.
    nn.init.zeros_(module.plan.offsets.weight)
    nn.init.zeros_(module.plan.weights.weight)
    left = torch.linspace(400, 600, 20)[:, None] + torch.rand(20, 1)
    boxes = torch.cat([left, torch.full_like(left, 4), left + 16, torch.full_like(left, 20)], -1)[None]
    cells = torch.arange(20)[None]
    expected = module.of_cells(inputs, cells, boxes, STRIDES[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = module.of_cells(inputs, cells, boxes, STRIDES[:2])
    assert outputs.dtype == torch.float32
    if projected:
        assert (outputs - expected).abs().max() < expected.abs().max() / 64
    else:
        assert torch.equal(outputs, expected)


@pytest.mark.parametrize("form", ["dense", "topk"])
def test_maps_of_the_common_width_are_not_projected(form: str) -> None:
    module = CrossScaleSampling((WIDTH, WIDTH + 2, WIDTH), width=WIDTH, form=form)  # type: ignore[arg-type]
    assert [bool(list(enter.parameters())) for enter in module.enter] == [False, True, False]
    x = torch.randn(1, WIDTH, 3, 3)
    assert torch.equal(module.enter[0](x), x)


def test_topk_gradient_reaches_every_parameter_and_map() -> None:
    """Points of the ring included: at initialisation the plan, whose weights are zero, learns."""
    module = CrossScaleSampling(CHANNELS, width=WIDTH, form="topk")
    inputs = [x.requires_grad_() for x in maps(TOPK_SIZES)]
    cells, boxes = CELLS.expand(2, -1), boxes_of(CELLS.shape[1]).float().expand(2, -1, -1)
    outputs = module.of_cells(inputs, cells, boxes, STRIDES)
    (outputs * torch.randn_like(outputs)).sum().backward()
    for name, tensor in [*module.named_parameters(), *((f"map {i}", x) for i, x in enumerate(inputs))]:
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().max() > 0, name


def test_topk_of_one_level_and_one_cell() -> None:
    module = topk(CHANNELS[:1])
    inputs, cells = [torch.randn(1, CHANNELS[0], 1, 1)], torch.zeros(1, 1, dtype=torch.int64)
    outputs = module.of_cells(inputs, cells, torch.tensor([[[0.0, 0, 8, 8]]]), STRIDES[:1])
    assert outputs.shape == (1, 1, WIDTH)
    assert outputs.isfinite().all()
