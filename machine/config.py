"""What a machine is made of: the values a board is built from.

Plain data.  The program's options make one (`monitor.options`), and so does
anybody who uses `Machine` as a library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from machine.multiboot import Kernel

__all__ = ["DeviceSpec", "MachineConfig"]


@dataclass(frozen=True)
class DeviceSpec:
    """One device beyond what the board always has: `-device driver,prop=value,…`.

    Property values are text as the user wrote it, already checked: integers may
    be decimal, octal (0…) or hexadecimal (0x…).  *origin* is the option, for messages.
    """

    driver: str
    props: dict[str, str] = field(default_factory=dict)
    origin: str = field(default="", compare=False)


@dataclass
class MachineConfig:
    """Everything that is decided before power-on."""

    machine_type: str = "pc"
    #: guest RAM in MiB
    ram_mb: int = 128
    #: the firmware image, a multiple of 64 KiB; None for the bundled one
    bios: bytes | None = None
    #: a Multiboot kernel that the firmware is to boot
    kernel: Kernel | None = None
    #: the option ROM that boots it under firmware other than the bundled one
    kernel_rom: bytes = b""
    #: the processor, as `-cpu` writes it: a model and its changes
    cpu: str = "qemu64"
    #: system management mode
    smm: bool = True
    #: what is logged (machine.log.ITEMS), where (None: stderr), and for which addresses
    log_items: frozenset[str] = frozenset()
    log_file: str | None = None
    log_filter: str | None = None
    #: end every translation block after one instruction
    one_insn_per_tb: bool = False
    #: None: guest time is wall time.  N: deterministic, 2**N ns for each instruction
    icount_shift: int | None = None
    #: False: wait in prelaunch for `cont`
    start: bool = True
    reboot_action: str = "reset"
    shutdown_action: str = "poweroff"
    panic_action: str = "shutdown"
    watchdog_action: str = "reset"
    #: "utc", "localtime", or a date as ISO 8601 writes it ("2025-01-31T12:00:00", UTC)
    rtc_base: str = "utc"
    #: "host", "rt" or "vm"
    rtc_clock: str = "host"
    devices: list[DeviceSpec] = field(default_factory=list)
    #: (driver, property, value): a device property's default replaced
    globals: list[tuple[str, str, str]] = field(default_factory=list)
    #: what the guest writes to serial port 0, 1, …; None for a port that is not there
    serials: list[Callable[[bytes], None] | None] = field(default_factory=list)
    #: what a device given `chardev=ID` writes
    chardevs: dict[str, Callable[[bytes], None]] = field(default_factory=dict)
    #: the guest's name, for people
    name: str | None = None
    #: the guest's UUID, as text in the usual form
    uuid: str = "00000000-0000-0000-0000-000000000000"
