"""Native steps of generation give what torch gives, over odd shapes, and for every width of vectors."""

from functools import partial

import pytest
import torch

from burnish.kernels import decode
from burnish.kernels.decode import (
    Attend,
    Gated,
    Linear,
    NativeDecode,
    Norm,
    Program,
    Reference,
    Softcap,
    in_bfloat16,
    read_faster,
    rounds_inputs,
)
from burnish.kernels.native import CannotCompile, native
from tests.machines import compiled_for

try:
    native("decode")
except CannotCompile as error:
    pytest.skip(f"no native code here: {error}", allow_module_level=True)

ROPE = "full_attention"


def numbers(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def both(program, rows, inputs, places, room=32, slots=None, dtype=torch.float32, attend=None):
    """The native logits and the reference's, with what each of them kept."""
    results = []
    for kind in (NativeDecode, partial(Reference, rounds=rounds_inputs())):
        keys, values = {}, {}
        if attend:
            shape = (slots or rows, attend.shared, room, attend.size)
            keys, values = ({0: numbers(*shape, seed=seed).to(dtype)} for seed in (1, 2))
        done = kind(program, rows).run(inputs, places, keys, values).clone()
        results.append((done, keys.get(0), values.get(0)))
    return results


def equal(results, near=1e-5):
    (native_logits, *native_kept), (logits, *kept) = results
    torch.testing.assert_close(native_logits, logits, atol=near * logits.abs().max().item(), rtol=0)
    for one, other in zip(native_kept, kept, strict=True):
        if one is not None:
            torch.testing.assert_close(
                one.float(), other.float(), atol=2e-2 if one.dtype != torch.float32 else 1e-5, rtol=0
            )


def attending(heads=4, shared=2, size=16, turned=None, **changes):
    """A program of one attention, whose rows are [query, key, value]."""
    widths = {"x": (heads + 2 * shared) * size, "q": heads * size, "k": shared * size, "v": shared * size}
    whole = torch.eye(widths["x"])
    ends = [0, widths["q"], widths["q"] + widths["k"], widths["x"]]
    parts = [Linear("x", name, whole[ends[at] : ends[at + 1]].contiguous()) for at, name in enumerate("qkv")]
    step = Attend("q", "k", "v", "logits", 0, heads, shared, size, ROPE, size**-0.5, **changes)
    turned = size if turned is None else turned
    angles = torch.arange(64)[:, None] * numbers(turned // 2 or 1)[None, : turned // 2]
    angles = torch.cat([angles, angles], dim=-1)
    tables = {ROPE: (angles.cos().contiguous(), angles.sin().contiguous())}
    return Program([parts, [step]], widths | {"logits": heads * size}, tables), step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 7), (4, 16), (65, 33), (48, 160), (130, 96), (1100, 64)])
@pytest.mark.parametrize("batch", [1, 2, 5, 6, 7, 13])
def test_products_of_a_few_rows(dtype, n, k, batch):
    weight, bias = numbers(n, k).to(dtype), numbers(n, seed=3)
    program = Program(
        [[Linear("x", "logits", weight, bias, 0.5)], [Linear("x", "logits", weight, None, -2.0, add=True)]],
        {"x": k, "logits": n},
    )
    equal(both(program, batch, numbers(batch, k, seed=1), torch.zeros(batch, dtype=torch.int64)))


def test_a_row_does_not_depend_on_the_others_or_on_the_threads():
    """One after another and together, with one thread and with three: not a bit differs."""
    for dtype, n in ((torch.float32, 150), (torch.bfloat16, 150), (torch.float32, 1131), (torch.bfloat16, 1131)):
        program = Program([[Linear("x", "logits", numbers(n, 70).to(dtype))]], {"x": 70, "logits": n})
        inputs, places = numbers(13, 70), torch.zeros(13, dtype=torch.int64)
        whole = NativeDecode(program, 13).run(inputs, places, {}, {}).clone()
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            single = NativeDecode(program, 1)
            alone = torch.cat([single.run(inputs[row : row + 1], places[:1], {}, {}).clone() for row in range(13)])
        finally:
            torch.set_num_threads(before)
        assert torch.equal(alone, whole)


@pytest.mark.parametrize("size", [8, 20, 64, 80, 96, 128])
@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (6, 2), (7, 1)])
def test_attention_of_every_shape(size, heads, shared):
    program, step = attending(heads, shared, size)
    equal(both(program, 4, numbers(4, program.widths["x"]), torch.tensor([0, 1, 17, 31]), attend=step))


@pytest.mark.parametrize(
    "changes",
    [
        {"window": 5},
        {"softcap": 2.0},
        {"sinks": numbers(4, seed=5)},
        {"window": 4, "softcap": 1.5, "sinks": numbers(4, seed=5)},
        {"q_norm": numbers(16, seed=6), "k_norm": numbers(16, seed=7), "eps": 1e-5, "offset": 1.0},
        {"turned": 8},
        {"turned": 0},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_with_what_families_add(changes, dtype):
    program, step = attending(**changes)
    places = torch.tensor([0, 3, 4, 5, 30])
    results = both(program, 5, numbers(5, program.widths["x"]), places, slots=7, dtype=dtype, attend=step)
    equal(results, 1e-5 if dtype == torch.float32 else 1e-2)  # a key may be rounded to its other neighbour


@pytest.mark.parametrize("activation", list(decode.ACTIVATIONS))
@pytest.mark.parametrize("width", [1, 15, 16, 37, 200])
def test_norms_gates_and_caps(activation, width):
    program = Program(
        [
            [Norm("x", "h", numbers(width, seed=1), 1e-6, 1.0)],
            [Gated("x", "h", "logits", activation)],
            [Norm("h", "logits", numbers(width, seed=2), 1e-5, add=True)],
            [Softcap("logits", 1.5)],
        ],
        {"x": width, "h": width, "logits": width},
    )
    inputs = numbers(3, width, scale=8.0)
    equal(both(program, 3, inputs, torch.zeros(3, dtype=torch.int64)))


def test_far_numbers_stay_numbers():
    program = Program([[Gated("x", "x", "logits", "silu")]], {"x": 4, "logits": 4})
    inputs = torch.tensor([[-1e4, -100.0, 100.0, 1e4]])
    done = NativeDecode(program, 1).run(inputs, torch.zeros(1, dtype=torch.int64), {}, {})
    torch.testing.assert_close(done, torch.tensor([[0.0, 0.0, 1e4, 1e8]]), atol=1e-30, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_move_when_they_grow(dtype):
    program, step = attending()
    one = NativeDecode(program, 1)
    inputs, place = numbers(1, program.widths["x"]), torch.tensor([6])
    keys, values = ({0: numbers(1, 2, 8, 16, seed=seed).to(dtype)} for seed in (1, 2))
    before = one.run(inputs, place, keys, values).clone()
    larger = [{0: torch.cat([kept[0], torch.zeros(1, 2, 8, 16).to(dtype)], dim=2)} for kept in (keys, values)]
    assert torch.equal(one.run(inputs, place, *larger), before)
    assert step.size == 16


def test_weights_that_fit_in_half_the_bytes_are_found():
    exact = numbers(50, 40).bfloat16().float()
    assert torch.equal(in_bfloat16(exact).float(), exact)
    exact[49, 39] += 1e-6
    assert in_bfloat16(exact) is None
    assert in_bfloat16(exact.double()) is None


@pytest.mark.parametrize("heads", [2, 4, 6, 8])
def test_rounded_products_are_chained_to_their_ends(heads):
    """A norm, a gate, an attention and a product each hand a rounded buffer to the next product."""
    size, width = 16, 48
    half = [
        numbers(n, k, seed=seed, scale=0.3).bfloat16()
        for seed, (n, k) in enumerate(
            [
                (heads * size, width),
                (2 * size, width),
                (2 * size, width),
                (width, heads * size),
                (80, width),
                (width, 80),
            ]
        )
    ]
    table = {ROPE: (numbers(32, size), numbers(32, size, seed=1))}
    attend = Attend("q", "k", "v", "mixed", 0, heads, 2, size, ROPE, size**-0.5)
    stages = [
        [Norm("x", "h", numbers(width), 1e-5)],
        [Linear("h", "q", half[0]), Linear("h", "k", half[1]), Linear("h", "v", half[2])],
        [attend],
        [Linear("mixed", "x", half[3], add=True)],
        [Linear("x", "gate", half[4]), Linear("x", "up", half[4])],
        [Gated("gate", "up", "up", "silu")],
        [Linear("up", "logits", half[5])],
    ]
    widths = {"x": width, "h": width, "q": heads * size, "k": 2 * size, "v": 2 * size, "mixed": heads * size}
    program = Program(stages, widths | {"gate": 80, "up": 80, "logits": width}, table)
    results = both(program, 5, numbers(5, width), torch.tensor([0, 3, 4, 17, 30]), dtype=torch.bfloat16, attend=attend)
    equal(results, 1e-2)  # a number may be rounded to its other neighbour


def test_weights_across_lines_are_copied_where_there_is_room():
    for dtype in (torch.float32, torch.bfloat16):
        whole = numbers(50 * 64 + 1).to(dtype)
        across, even = whole[1:].view(50, 64), whole[:-1].view(50, 64)
        copy = read_faster(across, across.nbytes)
        assert torch.equal(copy, across)
        assert copy.dtype == dtype
        assert copy.data_ptr() % 64 == 0
        assert read_faster(across, across.nbytes - 1) is None
        assert read_faster(even, 1 << 30) is None
    assert read_faster(numbers(50, 64).bfloat16().float(), 50 * 64 * 2).dtype == torch.bfloat16


def test_narrow_weights_change_nothing():
    weight = numbers(50, 40).bfloat16().float()
    program = Program([[Linear("x", "logits", weight)]], {"x": 40, "logits": 50})
    for rows in (1, 9):
        one, inputs, places = NativeDecode(program, rows), numbers(rows, 40), torch.zeros(rows, dtype=torch.int64)
        before = one.run(inputs, places, {}, {}).clone()
        one.narrow(in_bfloat16)
        weight_before = weight.clone()
        weight.zero_()  # it is read no more
        assert torch.equal(one.run(inputs, places, {}, {}), before)
        weight.copy_(weight_before)


@pytest.mark.parametrize("machine", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_machines_with_narrower_vectors_or_without_products_of_bfloat16(machine, tmp_path, monkeypatch):
    library = compiled_for(machine, "decode", tmp_path)
    monkeypatch.setattr(decode, "native", lambda name: library)
    assert not rounds_inputs()
    test_products_of_a_few_rows(torch.float32, 65, 33, 7)
    test_products_of_a_few_rows(torch.bfloat16, 48, 160, 7)
    test_attention_of_every_shape(20, 6, 2)
    test_attention_of_every_shape(80, 6, 2)
    test_attention_with_what_families_add({"window": 4, "softcap": 1.5, "sinks": numbers(4, seed=5)}, torch.bfloat16)
    test_norms_gates_and_caps("gelu", 37)
    test_narrow_weights_change_nothing()
