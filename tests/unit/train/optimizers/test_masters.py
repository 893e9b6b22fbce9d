"""Float32 copies, state that survives a checkpoint bit for bit, and what accelerate and its scaler ask for."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from burnish.errors import RunFolderError
from burnish.train.engine import Engine
from burnish.train.optimizers import MasterOptimizer
from burnish.train.processes import Place, Processes
from burnish.train.state import Progress, load_state, save_state
from tests.unit.train.optimizers.toy import NAMES, Toy, give_gradients, optimizer_of, run, same, toy


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_weights_follow_the_float32_run(name):
    exact, low = toy(torch.float32), toy(torch.bfloat16)
    run(exact, optimizer_of(exact, name), range(5))
    run(low, optimizer_of(low, name), range(5))
    for one, other in zip(exact.parameters(), low.parameters(), strict=True):
        assert torch.equal(one.to(torch.bfloat16), other)


@pytest.mark.parametrize("name", NAMES)
def test_small_updates_are_kept(name):
    # Neighbours of 1 in bf16 lie 2^-8 and 2^-7 apart: updates far below that vanish one by one without a copy.
    def moved(masters):
        model = toy(torch.bfloat16)
        for parameter in model.parameters():
            torch.nn.init.ones_(parameter)
        optimizer = optimizer_of(model, name, weight_decay=0.0, masters=masters, extras={})
        for _ in range(60):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            for group in optimizer.param_groups:
                group["lr"] = {"muon": 4e-3, "adagrad": 1e-3}.get(group["kind"], 1e-4)
            optimizer.step()
        return (model.q_proj.weight != 1).float().mean().item(), (model.norm.weight != 1).float().mean().item()

    assert moved(masters=True) == (1.0, 1.0)
    assert moved(masters=False) == (0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masters", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_state_survives_a_checkpoint_bit_for_bit(name, masters, dtype, tmp_path):
    model = toy(dtype)
    optimizer = optimizer_of(model, name, masters=masters)
    run(model, optimizer, range(3))
    save_file(optimizer.tensors(), tmp_path / "state.safetensors")
    twin = copy.deepcopy(model)
    other = optimizer_of(twin, name, masters=masters)
    other.load_tensors(load_file(tmp_path / "state.safetensors"))
    again = other.tensors()
    for key, value in optimizer.tensors().items():
        assert again[key].dtype == value.dtype
        assert torch.equal(again[key], value), key
    run(model, optimizer, range(3, 6))
    run(twin, other, range(3, 6))
    assert same(model, twin)


def test_a_checkpoint_of_a_fresh_optimizer_goes_back_too():
    model = toy(torch.bfloat16)
    other = optimizer_of(copy.deepcopy(model), "adamw_torch_fused")
    other.load_tensors(optimizer_of(model, "adamw_torch_fused").tensors())


def test_quantized_state_stays_quantized():
    model = toy()
    optimizer = optimizer_of(model, "adamw_8bit")
    run(model, optimizer, range(2))
    tensors = optimizer.tensors()
    assert tensors["adamw_8bit/state1/q_proj.weight"].dtype == torch.uint8
    assert tensors["adamw/exp_avg/embed.weight"].dtype == torch.float32  # tables keep 32 bits
    assert tensors["adamw_8bit/step:int/q_proj.weight"].item() == 2
    assert not any("qmap" in name for name in tensors)


def test_state_goes_by_name_whatever_the_groups():
    """LoRA+ and weight decay cut the parameters into other groups; each still gets its own state."""
    model = toy()
    optimizer = optimizer_of(model, "adamw_torch", weight_decay=0.1)
    run(model, optimizer, range(3))
    other = optimizer_of(copy.deepcopy(model), "adamw_torch", weight_decay=0.0, loraplus_lr_ratio=4.0)
    assert len(other.param_groups) == 2
    other.load_tensors(optimizer.tensors())
    for key, value in optimizer.tensors().items():
        assert torch.equal(other.tensors()[key], value)


def test_float32_state_meets_bfloat16_weights():
    model = toy(torch.float32)
    optimizer = optimizer_of(model, "adamw_torch_fused")
    run(model, optimizer, range(3))
    low = copy.deepcopy(model).to(torch.bfloat16)
    other = optimizer_of(low, "adamw_torch_fused")
    other.load_tensors(optimizer.tensors())  # no copies were saved: they start from the rounded weights
    assert torch.equal(other.tensors()["float32/master/norm.weight"], low.norm.weight.float())
    run(low, other, range(3, 5))


def test_copies_of_a_bfloat16_run_become_the_weights_of_a_float32_run():
    model = toy(torch.bfloat16)
    optimizer = optimizer_of(model, "lion")
    run(model, optimizer, range(3))
    wide = copy.deepcopy(model).float()
    optimizer_of(wide, "lion").load_tensors(optimizer.tensors())
    assert torch.equal(wide.q_proj.weight, optimizer.tensors()["float32/master/q_proj.weight"])
    assert not torch.equal(wide.q_proj.weight, model.q_proj.weight.float())


@pytest.mark.parametrize(
    ("now", "what"),
    [
        (lambda: optimizer_of(toy(torch.bfloat16), "lion"), "was trained by adamw, now by lion"),
        (lambda: optimizer_of(torch.nn.Linear(2, 2), "adamw_torch"), "'embed.weight' was trained and is not now"),
    ],
)
def test_state_of_something_else_is_refused(now, what, tmp_path):
    model = toy(torch.bfloat16)
    optimizer = optimizer_of(model, "adamw_torch")
    run(model, optimizer, range(1))
    save_state(tmp_path, Progress(step=1), optimizer.tensors())
    with pytest.raises(RunFolderError, match=what) as caught:
        load_state(tmp_path, Engine(Processes(Place()), torch.device("cpu")), now())
    assert "same optim" in caught.value.fix


def test_copies_of_another_shape_are_refused():
    model = toy(torch.bfloat16)
    tensors = optimizer_of(model, "sgd").tensors()
    tensors["float32/master/norm.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"'norm.weight' had the shape \[3\], now \[64\]"):
        optimizer_of(model, "sgd").load_tensors(tensors)


def test_names_without_a_kind_are_refused():
    with pytest.raises(ValueError, match=r"'0\.exp_avg' was trained and is not now"):
        optimizer_of(toy(), "adamw_torch").load_tensors({"0.exp_avg": torch.zeros(2)})


# -- as accelerate uses it ------------------------------------------------------------------------------------


def test_the_groups_hold_the_models_own_parameters():
    model = toy(torch.bfloat16)
    optimizer = optimizer_of(model, "adamw_torch_fused")
    run(model, optimizer, range(1))
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}


def test_accelerate_may_load_the_state_dict_before_the_first_step_and_later():
    plain, prepared = toy(torch.bfloat16), toy(torch.bfloat16)
    one, other = optimizer_of(plain, "adamw_8bit"), optimizer_of(prepared, "adamw_8bit")
    for step in range(3):
        other.load_state_dict(other.state_dict())  # what accelerate does in prepare()
        run(plain, one, [step])
        run(prepared, other, [step])
    assert same(plain, prepared)


def test_a_gradient_scaler_skips_infinite_gradients_and_undoes_its_scale():
    plain, scaled = toy(), toy()
    one, other = optimizer_of(plain, "adamw_torch_fused"), optimizer_of(scaled, "adamw_torch_fused")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    scaler.scale(torch.ones(()))  # makes the scale
    for step in range(3):
        run(plain, one, [step])
        give_gradients(scaled, step)
        for parameter in scaled.parameters():
            parameter.grad *= 2.0**8
        for group in other.param_groups:
            group["lr"] = 1e-3 / (1 + step)
        scaler.unscale_(other)  # as accelerate's clipping does
        scaler.step(other)
        scaler.update()
    assert same(plain, scaled)
    give_gradients(scaled, 9)
    scaled.norm.weight.grad[0] = float("inf")
    scaler.step(other)
    scaler.update()
    assert same(plain, scaled)


def test_parameters_may_be_exchanged_before_the_first_step():
    """FSDP puts sharded parameters into the groups after the optimizer was built."""
    model = toy(torch.bfloat16)
    optimizer = optimizer_of(model, "adamw_torch_fused")
    for group in optimizer.param_groups:
        group["params"] = [torch.nn.Parameter(parameter.detach().clone()) for parameter in group["params"]]
    sharded = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in sharded]
    for parameter in sharded:
        parameter.grad = torch.ones_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    assert same(model, toy(torch.bfloat16))
    assert not any(torch.equal(new, old) for new, old in zip(sharded, before, strict=True))


def test_parameters_without_a_gradient_stay_and_keep_no_state():
    model = toy(torch.bfloat16)
    optimizer = optimizer_of(model, "adamw_torch_fused")
    give_gradients(model, 0)
    model.embed.weight.grad = None
    optimizer.step()
    assert torch.equal(model.embed.weight, toy(torch.bfloat16).embed.weight)
    tensors = optimizer.tensors()
    assert "adamw/exp_avg/embed.weight" not in tensors
    optimizer_of(model, "adamw_torch_fused").load_tensors(tensors)


def test_a_closure_is_called_once():
    model = Toy()
    optimizer = MasterOptimizer(
        [{"params": list(model.named_parameters()), "kind": "sgd", "lr": 0.1}], {"sgd": torch.optim.SGD}
    )

    def closure():
        loss = model.norm.weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 64
    assert torch.allclose(model.norm.weight, torch.full((64,), 0.9))
