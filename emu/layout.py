"""Where libunicorn 2.1.4 keeps things: byte offsets in its structures, and its numbers.

They follow the structures' layout in one build (the x86-64 Linux wheel), so
`emu.engine` proves them on each live engine and refuses a library where one is
off.  `python -m emu.layout` prints those that `native.asm` includes.

Names are QEMU 5.0.1's own (CPUX86State, CPUState, CPUClass, TranslationBlock,
CPUTLB) and Unicorn's (uc_struct).
"""

from __future__ import annotations

from typing import Final

#: CPUX86State
ENV: Final = {
    "regs": 0, "eip": 128, "eflags": 136, "cc_dst": 144, "cc_src": 152, "cc_src2": 160,
    "cc_op": 168, "df": 172, "hflags": 176, "hflags2": 180, "segs": 184, "ldt": 328, "tr": 352,
    "gdt": 376, "idt": 400, "cr": 424, "a20_mask": 496, "efer": 592, "fpstt": 604, "fpuc": 610,
    "mxcsr": 816, "sysenter_cs": 4800, "sysenter_esp": 4808, "sysenter_eip": 4816,
    "star": 4824, "lstar": 4840, "cstar": 4848, "fmask": 4856, "kernelgsbase": 4864,
    "tsc_aux": 4896, "xcr0": 4904, "pat": 5280, "smbase": 5288, "error_code": 5384,
    "exception_is_int": 5388, "exception_next_eip": 5392, "dr": 5400,
    "old_exception": 5496, "end_reset_fields": 5568,
    "cpuid_level": 5604, "cpuid_xlevel": 5608, "cpuid_vendor1": 5616, "cpuid_version": 5628,
    "features": 5632, "end": 5632 + 34 * 8,
}
SEGMENT_SIZE: Final = 24        # u32 selector, u64 base at 8, u32 limit, u32 flags

#: our own bit of CPUX86State.hflags, which is a part of each block's flags: CR0.AM
HF_AM_BIT: Final = 27

#: CPUState
CPU: Final = {
    "cflags_next_tb": 24, "interrupt_request": 28,
    # two fields of -icount, which Unicorn leaves unused: our count and its bound
    "icount_budget": 40, "icount_extra": 48,
    "env_ptr": 296, "tb_jmp_cache": 312, "mem_io_pc": 33144, "halted": 33176,
    "exception_index": 33184, "uc": 33192, "cc": 33200, "env": 35408,
}
#: how many blocks it has, by a hash of their addresses
JMP_CACHE_SIZE: Final = 4096
#: CPUClass
CC: Final = {"do_unaligned_access": 24, "asidx_from_attrs": 104, "debug_excp_handler": 120,
             "cpu_exec_interrupt": 144}

#: uc_struct
UC: Final = {
    "cpu": 440, "l1_map": 736, "v_l1_size": 752, "v_l1_shift": 756,
    "v_l2_levels": 760, "tcg_ctx": 768, "count_hook": 1360, "emu_counter": 1368, "emu_count": 1376,
    "stop_request": 1389, "no_exit_request": 2034,
}

#: TCGContext, TCGOp and TranslationBlock
TCG_OPS: Final = 0x7388
TCG_CPU_ENV: Final = 0x98F0     # the temporary that is env, as an offset from TCGContext
TEMP_NAME: Final = 32
OP_CALL: Final = 2
OP_QEMU_LD_I32: Final = 133     # and st_i32, ld_i64, st_i64
TB: Final = {"pc": 0, "cs_base": 8, "flags": 16, "size": 20, "icount": 22, "cflags": 24,
             "tc.ptr": 32}

#: TranslatorOps (words), DisasContextBase, DisasContext, DisasJumpType
OPS_TRANSLATE_INSN: Final = 4
DB_TB: Final = 0
DB_PC_NEXT: Final = 16
DB_IS_JMP: Final = 24
DC_CC_OP: Final = 116
DISAS_NEXT: Final = 0
DISAS_TOO_MANY: Final = 1

#: CPUTLB, which lies before CPUX86State: offsets from env.  Each of the three MMU modes has a
#: {mask, table} of 16 bytes and a descriptor of 696.
TLB: Final = {"mask": -0x40, "table": -0x38, "iotlb": -0x870 + 0x2B0}
TLB_DESC_SIZE: Final = 0x2B8
TLB_ENTRY_BITS: Final = 6
TLB_ADDR_WRITE: Final = 8

#: what native.asm calls them
NATIVE: Final = {
    "ENV_EIP": ENV["eip"], "ENV_EFLAGS": ENV["eflags"], "ENV_HFLAGS": ENV["hflags"],
    "ENV_HFLAGS2": ENV["hflags2"], "ENV_CC_SRC": ENV["cc_src"], "ENV_CC_OP": ENV["cc_op"],
    "ENV_DF": ENV["df"], "ENV_RCX": ENV["regs"] + 8, "ENV_RSP": ENV["regs"] + 8 * 4,
    "ENV_R11": ENV["regs"] + 8 * 11, "ENV_EFER": ENV["efer"], "ENV_STAR": ENV["star"],
    "ENV_LSTAR": ENV["lstar"], "ENV_CSTAR": ENV["cstar"], "ENV_FMASK": ENV["fmask"],
    "ENV_SYSENTER_CS": ENV["sysenter_cs"], "ENV_SYSENTER_ESP": ENV["sysenter_esp"],
    "ENV_SYSENTER_EIP": ENV["sysenter_eip"], "ENV_CS": ENV["segs"] + SEGMENT_SIZE,
    "ENV_SS": ENV["segs"] + 2 * SEGMENT_SIZE, "ENV_CS_BASE": ENV["segs"] + SEGMENT_SIZE + 8,
    "ENV_RAX": ENV["regs"], "ENV_TSC_AUX": ENV["tsc_aux"],
    "ENV_RDX": ENV["regs"] + 16, "ENV_GDT": ENV["gdt"], "ENV_IDT": ENV["idt"],
    "ENV_LDT": ENV["ldt"],
    "ENV_FS_BASE": ENV["segs"] + 4 * SEGMENT_SIZE + 8,
    "ENV_GS_BASE": ENV["segs"] + 5 * SEGMENT_SIZE + 8,
    "ENV_FS": ENV["segs"] + 4 * SEGMENT_SIZE, "ENV_GS": ENV["segs"] + 5 * SEGMENT_SIZE,
    "ENV_CR4": ENV["cr"] + 32, "ENV_DR6": ENV["dr"] + 48, "ENV_DR7": ENV["dr"] + 56,
    "ENV_TR": ENV["tr"],
    "ENV_TR_FLAGS": ENV["tr"] + 20, "ENV_ERROR_CODE": ENV["error_code"],
    "ENV_EXCEPTION_IS_INT": ENV["exception_is_int"],
    "ENV_EXCEPTION_NEXT_EIP": ENV["exception_next_eip"],
    "CPU_CFLAGS_NEXT_TB": CPU["cflags_next_tb"], "CPU_ENV": CPU["env"],
    "CPU_INTERRUPT_REQUEST": CPU["interrupt_request"],
    "CPU_EXCEPTION_INDEX": CPU["exception_index"],
    "CPU_COUNTER": CPU["icount_extra"], "CPU_BOUND": CPU["icount_budget"],
    "UC_L1_MAP": UC["l1_map"], "UC_L1_SIZE": UC["v_l1_size"], "UC_L1_SHIFT": UC["v_l1_shift"],
    "UC_L2_LEVELS": UC["v_l2_levels"],
    "TCG_OPS": TCG_OPS, "OP_CALL": OP_CALL,
    "OP_QEMU_LD_I32": OP_QEMU_LD_I32, "OP_QEMU_LD_I64": OP_QEMU_LD_I32 + 2,
    "OP_QEMU_ST_I64": OP_QEMU_LD_I32 + 3, "HF_AM_BIT": HF_AM_BIT, "ENV_CR0": ENV["cr"],
    "TB_PC": TB["pc"], "TB_CS_BASE": TB["cs_base"], "TB_FLAGS": TB["flags"],
    "TB_SIZE": TB["size"], "TB_ICOUNT": TB["icount"], "TB_CODE": TB["tc.ptr"],
    "OPS_TRANSLATE_INSN": OPS_TRANSLATE_INSN, "DB_TB": DB_TB, "DB_PC_NEXT": DB_PC_NEXT,
    "DB_IS_JMP": DB_IS_JMP,
    "DC_CC_OP": DC_CC_OP,
    "DISAS_NEXT": DISAS_NEXT, "DISAS_TOO_MANY": DISAS_TOO_MANY,
    "TLB_MASK": TLB["mask"], "TLB_TABLE": TLB["table"], "TLB_IOTLB": TLB["iotlb"],
    "TCG_CPU_ENV": TCG_CPU_ENV, "CPU_MEM_IO_PC": CPU["mem_io_pc"],
    "CPU_JMP_CACHE": CPU["tb_jmp_cache"],
    "JMP_CACHE_SIZE": JMP_CACHE_SIZE,
    "TLB_DESC_SIZE": TLB_DESC_SIZE, "TLB_ENTRY_BITS": TLB_ENTRY_BITS,
    "TLB_ADDR_WRITE": TLB_ADDR_WRITE,
}


def _main() -> None:
    print("; made by python -m emu.layout")
    for name, value in NATIVE.items():
        print(f"{name:<24}equ {value}")


if __name__ == "__main__":
    _main()
