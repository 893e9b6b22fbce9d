"""What the set-up decides to run, for each kind of machine."""

from __future__ import annotations

import shlex

import pytest
from bootstrap import plan
from bootstrap.plan import GET_UV, PIP, UV, Installed, Machine

PIN = "torch==2.13.0"
CPU = ("--torch-backend", "cpu", PIN)


def linux(*, gpu: bool = False, uv: bool = False, own_index: bool = False, listed: bool | None = False) -> Machine:
    return Machine("Linux", gpu, "/somewhere/uv" if uv else None, own_index, None if gpu else listed)


def ways(machine: Machine, override: str = "") -> list[tuple[str, tuple[str, ...]]]:
    return [(attempt.tool, attempt.args) for attempt in plan.torch_attempts(machine, PIN, override)]


@pytest.mark.parametrize("uv", [False, True])
def test_a_cpu_build_on_pips_index_is_taken_by_pip_whether_or_not_uv_is_there(uv: bool) -> None:
    assert ways(linux(uv=uv, listed=True)) == [(PIP, ("torch==2.13.0+cpu",)), (PIP, (PIN,))]


def test_without_a_gpu_uv_is_asked_for_the_cpu_build_and_pip_comes_last() -> None:
    assert ways(linux(uv=True)) == [(UV, CPU), (PIP, (PIN,))]


def test_without_a_gpu_and_without_uv_uv_is_fetched_and_pip_comes_last() -> None:
    assert ways(linux(uv=False)) == [(GET_UV, CPU), (PIP, (PIN,))]


@pytest.mark.parametrize("uv", [False, True])
def test_the_size_is_said_before_a_gpu_build_may_be_fetched_without_a_gpu(uv: bool) -> None:
    first, last = plan.torch_attempts(linux(uv=uv), PIN)
    assert first.notice == ""
    assert "GB" in last.notice


def test_with_a_gpu_pip_leaves_out_builds_marked_cpu_at_first() -> None:
    assert ways(linux(gpu=True)) == [(PIP, ("torch===2.13.0",)), (PIP, (PIN,))]


def test_with_a_gpu_uv_takes_the_normal_build() -> None:
    found = ways(linux(gpu=True, uv=True))
    assert found[0] == (UV, (PIN,))
    assert not any("cpu" in " ".join(args) for _, args in found)


@pytest.mark.parametrize("gpu", [False, True])
def test_a_gpu_build_is_announced_once_with_its_size(gpu: bool) -> None:
    for uv in (False, True):
        notices = [attempt.notice for attempt in plan.torch_attempts(linux(gpu=gpu, uv=uv), PIN)]
        assert sum("GB" in notice for notice in notices) == 1


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_other_systems_take_the_indexs_build(system: str) -> None:
    assert ways(Machine(system, gpu=False, uv=None)) == [(PIP, (PIN,))]
    assert ways(Machine(system, gpu=False, uv="uv")) == [(UV, (PIN,)), (PIP, (PIN,))]


@pytest.mark.parametrize("gpu", [False, True])
def test_an_override_is_the_only_way_on_every_machine(gpu: bool) -> None:
    override = plan.override_arguments("/wheels here/torch.whl", is_path=True)
    assert ways(linux(gpu=gpu, uv=True), override) == [(PIP, ("/wheels here/torch.whl",))]


def test_an_override_that_is_no_path_is_read_by_the_shells_rules() -> None:
    override = plan.override_arguments("torch==2.12.1  --find-links 'my wheels'", is_path=False)
    assert ways(linux(), override) == [(PIP, ("torch==2.12.1", "--find-links", "my wheels"))]
    assert shlex.split(override) == ["torch==2.12.1", "--find-links", "my wheels"]


def test_the_lock_is_installed_with_hashes_and_nothing_else() -> None:
    for machine in (linux(), linux(uv=True)):
        for attempt in plan.locked_attempts(machine, "requirements/lock.txt"):
            assert {"--no-deps", "--require-hashes"} <= set(attempt.args)
    assert [a.tool for a in plan.locked_attempts(linux(), "x")] == [PIP]
    assert [a.tool for a in plan.locked_attempts(linux(uv=True), "x")] == [UV, PIP]


def test_uv_is_left_aside_where_only_pip_knows_the_index() -> None:
    assert [a.tool for a in plan.locked_attempts(linux(uv=True, own_index=True), "x")] == [PIP]


def test_the_checkout_is_installed_without_an_index() -> None:
    (only,) = plan.editable_attempts()
    assert {"--no-deps", "--no-build-isolation", "--no-index", "-e"} <= set(only.args)


@pytest.mark.parametrize(
    ("config", "environment", "expected"),
    [
        ([], [], False),
        (["global.index-url='https://index.example/simple'"], [], True),
        ([":env:.index-url='https://index.example/simple'"], [], True),
        (["global.no-index='1'"], [], True),
        (["global.index-url='https://index.example/simple'"], ["UV_DEFAULT_INDEX"], False),
        (["global.extra-index-url='https://index.example/simple'", "global.cert='x'"], [], False),
    ],
)
def test_an_index_of_pips_own(config: list[str], environment: list[str], expected: bool) -> None:
    assert plan.has_own_index(config, environment) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0+cpu, 2.13.0, 2.12.1", True),
        ("torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0, 2.12.1", False),
        ("Available versions: 2.13.0+cpu.cxx11, 2.13.0+cu130", False),
        ("Available versions: 12.13.0+cpu, 2.13.01+cpu", False),
        ("", False),
    ],
)
def test_reading_which_builds_an_index_offers(answer: str, expected: bool) -> None:
    assert plan.lists_cpu_build(answer, "2.13.0") is expected


@pytest.mark.parametrize(
    ("installed", "gpu", "override", "expected"),
    [
        (Installed(None), False, "", False),
        (Installed("2.13.0+cpu"), False, "", True),
        (Installed("2.13.0"), False, "", True),
        (Installed("2.13.0+cu130"), False, "", True),
        (Installed("2.12.1+cpu"), False, "", False),
        (Installed("2.13.0+cu130"), True, "", True),
        (Installed("2.13.0+cpu"), True, "", False),
        (Installed("2.13.0+cpu", gpu_seen=True), True, "", True),
        (Installed("2.12.1", override="torch==2.12.1"), False, "", True),
        (Installed("2.12.1+cpu", override="torch==2.12.1"), True, "", True),
        (Installed("2.13.0+cpu"), False, "torch==2.12.1", False),
        (Installed("2.12.1", override="torch==2.12.1"), False, "torch==2.12.1", True),
    ],
)
def test_when_the_installed_torch_stays(installed: Installed, gpu: bool, override: str, expected: bool) -> None:
    assert plan.torch_is_right(installed, PIN, gpu=gpu, override=override) is expected


def test_a_pin_must_be_exact() -> None:
    assert plan.read_pin("# why\n\ntorch==2.13.0\n") == PIN
    assert plan.pinned_version(PIN) == "2.13.0"
    with pytest.raises(ValueError, match="torch==VERSION"):
        plan.pinned_version("torch>=2.13")


@pytest.mark.parametrize(
    ("output", "word"),
    [
        ("OSError: [Errno 28] No space left on device", "space"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "index"),
        (
            "NewConnectionError: Failed to establish; Temporary failure in name resolution\nNo matching",
            "network",
        ),
        ("ERROR: No matching distribution found for numpy==9", "Python"),
        ("(from versions: none)\nERROR: No matching distribution found for numpy==9", "answer"),
        ("something nobody has seen", "log"),
    ],
)
def test_advice_after_a_failure(output: str, word: str) -> None:
    assert word in plan.advice(output)


def test_the_reason_is_the_line_that_says_error_and_is_short() -> None:
    assert plan.reason("Collecting x\nerror: no answer\n  hint: y") == "error: no answer"
    assert plan.reason("one\ntwo\n") == "two"
    assert plan.reason("") == "no output"
    assert len(plan.reason("ERROR: " + "x" * 500)) == 100
