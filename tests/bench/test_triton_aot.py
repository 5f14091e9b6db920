"""What is read off the machine code of a kernel, and what of it is a fault. Nothing is compiled."""

from __future__ import annotations

from typing import Any

import pytest
from support.kernels.devices import kernel_device
from support.scripts import script

SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;            /* 0x00000a00ff017b82 */
        /*0010*/                   STL.64 [R1], R2 ;                 /* 0x0000000201007387 */
        /*0020*/              @!P3 BRA 0x80 ;                        /* 0x0000000c00acb947 */
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;  /* 0x0000000402047981 */
        /*0040*/                   LDL R6, [R1+0x8] ;                /* 0x0000080001067983 */
        /*0050*/                   LDG.E.U16 R4, desc[UR4][R2.64] ;  /* 0x0000000402047981 */
        /*0060*/                   HGMMA.64x64x16.F32 R24, R4 ;      /* 0x00e0000804187df0 */
        /*0070*/               @P3 BRA 0x30 ;                        /* 0xfffffff000b83947 */
        /*0080*/                   LDL R6, [R1+0x8] ;                /* 0x0000080001067983 */
        /*0090*/                   STG.E desc[UR4][R2.64], R6 ;      /* 0x0000000602007986 */
        /*00a0*/                   EXIT ;                            /* 0x000000000000794d */
        /*00b0*/                   BRA 0xb0;                         /* 0xfffffffc00fc7947 */
"""


@pytest.fixture(scope="module")
def aot() -> Any:
    kernel_device()  # skips where Triton is missing
    return script("cuda/triton_aot")


def test_a_loop_lies_between_a_branch_and_an_earlier_target(aot: Any) -> None:
    code = list(aot.instructions(SASS))
    assert len(code) == 12
    assert aot.spills_of(code) == (3, 1)  # one is before the loop, one behind it


def test_accesses_are_counted_by_their_width(aot: Any) -> None:
    counts = aot.counted(list(aot.instructions(SASS)))
    assert counts == {"HGMMA": 1, "LDG.128": 1, "LDG.16": 1, "STG.32": 1, "all": 12}


@pytest.mark.parametrize(
    ("facts", "kinds"),
    [
        ({}, []),
        ({"error": "no"}, ["does not compile"]),
        ({"shared": 101, "shared_limit": 100}, ["shared memory"]),
        ({"arch": 90, "spills_in_loops": 1}, ["spills in loops"]),
        ({"arch": 90, "spills_in_loops": 8, "kernel": "convolve_rows"}, []),
        ({"arch": 90, "spills_in_loops": 9, "kernel": "convolve_rows"}, ["spills in loops"]),
        ({"arch": 80, "spills_in_loops": 1}, []),
        ({"arch": 90, "spills": 1}, []),
        ({"arch": 90, "serialized": True}, ["serialized wgmma"]),
        ({"kernel": "following", "compile_seconds": 3.1}, ["slow to compile"]),
        ({"kernel": "following", "compile_seconds": 2.9}, []),
        ({"kernel": "blend", "compile_seconds": 3.1}, []),
    ],
)
def test_what_a_fault_is(aot: Any, facts: dict[str, Any], kinds: list[str]) -> None:
    row = aot.Row(**{"kernel": "pack", "constants": "", "signature": "", "arch": 80} | facts)
    assert [kind for kind, _ in aot.faults_of(row)] == kinds


def test_each_kind_of_fault_of_a_kernel_is_returned_once(
    aot: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [aot.Row("pack", "", "", arch, error="no") for arch in (80, 90)]
    assert aot.judged(rows) == ["pack: does not compile"]
    said = capsys.readouterr().out
    assert "sm_80: no" in said
    assert "sm_90: no" in said


def test_every_kernel_must_be_started_by_some_launcher(aot: Any) -> None:
    names = {"along", "begin", "blend", "following", "pack"}
    assert set(aot.never_started([])) >= names
    assert "pack" not in aot.never_started([aot.Row("pack", "", "", 90)])
