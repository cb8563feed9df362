"""The processor: Unicorn made into a PC's x86 CPU.

`emu.cpu.X86Cpu` is what the rest of the project uses; `emu.engine` is the one
file that knows libunicorn's symbols and offsets; `emu.memory` is guest-physical
memory.  Nothing here has ever heard of a device or of a run state.
"""
