"""The "pc" board: i440FX and PIIX3/PIIX4, wired.

Only this file knows which device sits at which port and whose line ends where:

    devices -> i8259 pair -> LINT0, pin 0  PIIX4 PM -> SCI (IRQ 9), run-state requests
    i8254 channel 0 -> IRQ 0               i8042, port 92, 0xcf9 -> reset request
    i8042 -> IRQ 1, 12                     i440FX PAM -> what is seen at 0xc0000-0xfffff
    devices -> I/O APIC -> local APIC -> INTR, NMI, SMI#, INIT
    16550 -> IRQ 4, 3                      MC146818 -> IRQ 8, wake-up from S3

Memory as on QEMU's "pc": RAM below 3.5 GiB and above 4 GiB, the firmware image
ending at 4 GiB, its last 128 KiB also below 1 MiB.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable

from emu.cpu import X86Cpu
from machine.clock import Clock
from machine.config import DeviceSpec, MachineConfig
from machine.devices.debug_exit import DebugExit
from machine.devices.debugcon import DebugCon
from machine.devices.fw_cfg import FwCfg
from machine.devices.i440fx import I440fx
from machine.devices.i8042 import I8042
from machine.devices.i8254 import I8254
from machine.devices.i8259 import I8259Pair
from machine.devices.ioapic import BASE as IOAPIC_BASE
from machine.devices.ioapic import IoApic
from machine.devices.local_apic import LocalApic
from machine.devices.mc146818 import Mc146818
from machine.devices.pc_testdev import MEMORY_BASE as TESTDEV_MEMORY
from machine.devices.pc_testdev import MEMORY_SIZE as TESTDEV_SIZE
from machine.devices.pc_testdev import PcTestdev, reads_zero
from machine.devices.pci import PciBus
from machine.devices.pci_testdev import MEMORY_SIZE as PCI_TESTDEV_MEMORY
from machine.devices.pci_testdev import PORTS_SIZE as PCI_TESTDEV_PORTS
from machine.devices.pci_testdev import PciTestdev
from machine.devices.piix3 import Piix3Isa
from machine.devices.piix4_pm import Piix4Pm
from machine.devices.port61 import SystemControlPortB
from machine.devices.port92 import Port92
from machine.devices.pvpanic import PvpanicIsa
from machine.devices.serial16550 import Serial16550
from machine.multiboot import KernelError, fw_cfg_items
from machine.ports import PortBus
from machine.runstate import RunStateManager, ShutdownCause, WakeupReason
from machine.wiring import Line, Notify

__all__ = ["PcBoard", "ConfigError"]

_guest = logging.getLogger("snooze.guest")

LOW_RAM_LIMIT = 0xE000_0000         # RAM beyond this many bytes sits above 4 GiB
FOUR_GIB = 1 << 32
ISA_BIOS_SIZE = 128 << 10           # the image's tail that is also seen below 1 MiB
SHADOW_BASE, SHADOW_END = 0xC0000, 0x100000
CMOS_SHUTDOWN_STATUS, SHUTDOWN_S3_RESUME = 0x0F, 0xFE
SERIAL_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))
SCI_IRQ = 9
SMRAM_BASE, SMRAM_SIZE = 0xA0000, 0x20000

#: fw_cfg selector keys (QEMU docs/specs/fw_cfg.rst)
FW_CFG_RAM_SIZE, FW_CFG_NB_CPUS, FW_CFG_MAX_CPUS, FW_CFG_NOGRAPHIC = 0x03, 0x05, 0x0F, 0x04


class ConfigError(Exception):
    """What the user asked for cannot be built: one clear line."""


class PcBoard:
    """The devices of one PC and what connects them."""

    def __init__(self, config: MachineConfig, cpu: X86Cpu, ports: PortBus, clock: Clock,
                 rtc_clock: Clock, rtc_ns_at_zero: int, runstate: RunStateManager,
                 tsc: Callable[[], int], tsc_ns: Callable[[int], int]) -> None:
        self.cpu = cpu
        self.ports = ports
        self.clock = clock
        self._runstate = runstate
        self._map_memory(config)

        reset = self._asking(lambda: runstate.request_reset(ShutdownCause.GUEST_RESET))
        self._smram = (False, False)
        self._smm = False
        self._smram_shown = False
        self._apic_page: int | None = None
        self._init_wanted = False
        #: called before the processor is reset
        self.before_reset: Notify = lambda: None
        self.ioapic = IoApic(deliver=self._interrupt_message)
        cpu.memory.overlay(IOAPIC_BASE, 0x1000, self.ioapic.mmio_read, self.ioapic.mmio_write)
        self.local_apic = LocalApic(
            clock=clock, tsc=tsc, tsc_ns=tsc_ns, output=cpu.set_interrupt, nmi=cpu.raise_nmi,
            smi=cpu.raise_smi, init=self._init, start_up=lambda vector: None,
            extint=self._acknowledge_pic,
            broadcast_eoi=self.ioapic.eoi, accepting=self.ioapic.retry, moved=self._apic_moved,
            x2apic=cpu.has("x2apic"), tsc_deadline=cpu.has("tsc-deadline"))
        self._pic_at_ioapic = self.ioapic.line(0)
        self.pic = I8259Pair(output=self._pic_output)
        irq = self.isa_line
        ports.add(0x20, 2, self.pic.master_read, self.pic.master_write, name="i8259 master")
        ports.add(0xA0, 2, self.pic.slave_read, self.pic.slave_write, name="i8259 slave")
        ports.add(0x4D0, 2, self.pic.elcr_read, self.pic.elcr_write, name="ELCR")

        self.pit = I8254(clock=clock, irq0=irq(0))
        ports.add(0x40, 4, self.pit.read, self.pit.write, name="i8254")
        self.port61 = SystemControlPortB(
            pit_output=lambda: self.pit.output(2),
            pit_gate=lambda level: self.pit.set_gate(2, level))
        ports.add(0x61, 1, self.port61.read, self.port61.write, name="port 61")

        self.rtc = Mc146818(clock=rtc_clock, irq=irq(8), wall_ns_at_zero=rtc_ns_at_zero)
        self.rtc.on_alarm = self._rtc_alarm
        ports.add(0x70, 2, self.rtc.read, self.rtc.write, name="mc146818")
        self._fill_cmos(config.ram_mb << 20)

        self.keyboard = I8042(keyboard_irq=irq(1), mouse_irq=irq(12), reset=reset,
                              set_a20=cpu.set_a20)
        ports.add(0x60, 1, self.keyboard.data_read, self.keyboard.data_write, name="i8042 data")
        ports.add(0x64, 1, self.keyboard.command_read, self.keyboard.command_write,
                  name="i8042 command")
        self.port92 = Port92(reset=reset, set_a20=cpu.set_a20)
        ports.add(0x92, 1, self.port92.read, self.port92.write, width=4, name="port 92")

        self._add_pci(config, irq, reset)
        self.fw_cfg = FwCfg(memory=cpu.memory)
        ports.add(0x510, 2, self.fw_cfg.read, self.fw_cfg.write, width=4, name="fw_cfg")
        ports.add(0x514, 8, self.fw_cfg.dma_read, self.fw_cfg.dma_write, width=8,
                  name="fw_cfg DMA")
        self._fill_fw_cfg(config)

        self.serials: list[Serial16550] = []
        self._chardevs = config.chardevs
        for index, transmit in enumerate(config.serials):
            if transmit is not None:
                self._add_serial(transmit, {"index": str(index)})
        self._optional_resets: list[Notify] = []
        for spec in config.devices:
            self._add_device(spec)
        self.pm.machine_ready()
        self._resets = [
            self.ioapic.reset, self.local_apic.reset, self.pic.reset, self.pit.reset,
            self.port61.reset, self.rtc.reset, self.keyboard.reset, self.port92.reset,
            self.i440fx.reset, self.piix3.reset, self.pm.reset, self.fw_cfg.reset,
            *(serial.reset for serial in self.serials), *self._optional_resets]

    # -- memory
    def _map_memory(self, config: MachineConfig) -> None:
        memory = self.cpu.memory
        size = config.ram_mb << 20
        bios = config.bios
        if not bios:
            raise ConfigError("no firmware image")
        if config.ram_mb < 1:
            raise ConfigError("a PC needs at least 1 MiB of RAM")
        length = max(ISA_BIOS_SIZE, -(-len(bios) // 0x10000) * 0x10000)
        low = min(size, LOW_RAM_LIMIT)
        self._rom = mmap.mmap(-1, length)
        self._rom[length - len(bios):] = bios
        # What PAM shows of ROM: an empty option ROM area, then the image's tail.
        self._shadow_rom = mmap.mmap(-1, SHADOW_END - SHADOW_BASE)
        tail = min(len(bios), ISA_BIOS_SIZE)
        self._shadow_rom[len(self._shadow_rom) - tail:] = bios[-tail:]
        memory.map_ram(0, 0xA0000, 0)
        if low > SHADOW_END:
            memory.map_ram(SHADOW_END, low - SHADOW_END, SHADOW_END)
        memory.map_rom(FOUR_GIB - length, length, self._rom, name="firmware")
        if size > low:
            memory.map_ram(FOUR_GIB, size - low, low, name="ram above 4G")
        self._pam = [-1] * 13
        for segment in range(13):
            self._pam_changed(segment, 0)
        memory.fill_holes()

    def _pam_changed(self, segment: int, state: int) -> None:
        """PAM (i440FX data sheet, 3.2.12): bit 0 reads RAM, bit 1 writes RAM."""
        if self._pam[segment] == state:
            return
        start, length = ((0xF0000, 0x10000) if segment == 0
                         else (SHADOW_BASE + (segment - 1) * 0x4000, 0x4000))
        memory = self.cpu.memory
        if self._pam[segment] >= 0:
            memory.unmap(start, length)
        self._pam[segment] = state
        if state & 1:
            if state & 2:
                memory.map_ram(start, length, start, name="shadow")
            else:
                memory.map_rom(start, length, memory.ram, start, name="shadow")
        else:
            memory.map_rom(start, length, self._shadow_rom, start - SHADOW_BASE,
                           absorb=memory.load if state & 2 else None)
        self.cpu.forget_code()

    # -- system management mode
    def _smram_changed(self, always: bool, in_smm: bool) -> None:
        self._smram = always, in_smm
        self._show_smram()

    def smm_changed(self, active: bool) -> None:
        """SMIACT#, from the processor."""
        self._smm = active
        self._show_smram()

    def _show_smram(self) -> None:
        """0xa0000 to 0xbffff: the video memory's place, or RAM."""
        always, in_smm = self._smram
        shown = always or in_smm and self._smm
        if shown == self._smram_shown:
            return
        self._smram_shown = shown
        memory = self.cpu.memory
        if shown:
            memory.overlay_ram(SMRAM_BASE, SMRAM_SIZE, SMRAM_BASE)
        else:
            memory.unveil(SMRAM_BASE, SMRAM_SIZE)
        self.cpu.forget_code()

    # -- interrupts
    def _pic_output(self, level: bool) -> None:
        """The i8259s' INT: at LINT0 and at the I/O APIC's pin 0, the two virtual wires."""
        self.local_apic.lint(0, level)
        self._pic_at_ioapic(level)

    def _acknowledge_pic(self) -> int:
        """INTA.  INT falls with it, so at the I/O APIC what still waits is a new edge."""
        vector = self.pic.acknowledge()
        if self.pic.output_level:
            self._pic_at_ioapic(False)
            self._pic_at_ioapic(True)
        return vector

    def isa_line(self, irq: int) -> Line:
        """An ISA interrupt: at the i8259s, and at the I/O APIC, where 0 comes at pin 2."""
        pic, ioapic = self.pic.line(irq), self.ioapic.line(2 if irq == 0 else irq)

        def drive(level: bool) -> None:
            pic(level)
            ioapic(level)

        return drive

    def gsi_line(self, gsi: int) -> Line:
        """A global system interrupt, 0 to 23.  The i8259s have no pin for 2 (it joins them)."""
        return self.isa_line(gsi) if gsi < 16 and gsi != 2 else self.ioapic.line(gsi)

    def _interrupt_message(self, destination: int, logical: bool, vector: int, mode: int,
                           level: bool) -> bool:
        apic = self.local_apic
        return apic.matches(destination, logical) and apic.deliver(vector, mode, level)

    def _apic_moved(self, base: int | None) -> None:
        memory = self.cpu.memory
        if base == self._apic_page:
            return
        if self._apic_page is not None:
            memory.unveil(self._apic_page, 0x1000)
        self._apic_page = None
        if base is not None:
            if memory.overlay(base, 0x1000, self.local_apic.mmio_read,
                              self.local_apic.mmio_write):
                self._apic_page = base
            else:
                _guest.warning("the local APIC's registers at %#x would cover memory", base)
        self.cpu.forget_code()

    def _init(self) -> None:
        """INIT from an interrupt message: done between slices."""
        self._init_wanted = True
        self.cpu.kick()

    def serve_init(self) -> None:
        """Between slices: the INIT line, for processor and local APIC only."""
        if self._init_wanted:
            self._init_wanted = False
            self.local_apic.init_reset()
            self.cpu.init()

    def inject_nmi(self) -> None:
        """An edge at LINT1, which firmware sets up as NMI."""
        self.local_apic.lint(1, True)
        self.local_apic.lint(1, False)

    # -- configuration tables
    def _fill_cmos(self, size: int) -> None:
        """The memory sizes where firmware looks for them (as QEMU's pc_cmos_init)."""
        cmos = self.rtc.state.cmos
        low = min(size, LOW_RAM_LIMIT)

        def store(at: int, value: int, limit: int) -> None:
            value = min(value, limit)
            cmos[at:at + 2] = value.to_bytes(2, "little")

        store(0x15, 640, 0xFFFF)
        store(0x17, (low - (1 << 20)) >> 10, 0xFFFF)
        store(0x30, (low - (1 << 20)) >> 10, 0xFFFF)
        store(0x34, max(low - (16 << 20), 0) >> 16, 0xFFFF)
        cmos[0x5B:0x5E] = ((size - low) >> 16).to_bytes(3, "little")
        cmos[0x5F] = 0                                 # processors - 1
        cmos[0x14] = 0x06                              # equipment: FPU, PS/2 mouse

    def _fill_fw_cfg(self, config: MachineConfig) -> None:
        size = config.ram_mb << 20
        add = self.fw_cfg.add
        add(FW_CFG_RAM_SIZE, min(size, LOW_RAM_LIMIT).to_bytes(8, "little"))
        add(FW_CFG_NB_CPUS, (1).to_bytes(2, "little"))
        add(FW_CFG_MAX_CPUS, (1).to_bytes(2, "little"))
        add(FW_CFG_NOGRAPHIC, (1).to_bytes(2, "little"))
        self.fw_cfg.add_file("etc/system-states", self.pm.system_states)
        if config.kernel is not None:
            try:
                items = fw_cfg_items(config.kernel)
            except KernelError as error:
                raise ConfigError(str(error)) from None
            for key, content in items.items():
                add(key, content)
            self.fw_cfg.add_file("genroms/multiboot.bin", config.kernel_rom)
            self.fw_cfg.add_file("bootorder", b"/rom@genroms/multiboot.bin\0")

    # -- devices
    def _add_pci(self, config: MachineConfig, irq: Callable[[int], Callable[[bool], None]],
                 reset: Callable[[], None]) -> None:
        ports = self.ports
        self.pci = PciBus()
        ports.add(0xCF8, 4, self.pci.address_read, self.pci.address_write, width=4,
                  name="PCI address")
        ports.add(0xCFC, 4, self.pci.data_read, self.pci.data_write, width=4, name="PCI data")
        self.i440fx = I440fx(ram_size=config.ram_mb << 20, pam_changed=self._pam_changed,
                             smram_changed=self._smram_changed)
        self.pci.add(self.i440fx, 0x00, "i440FX")
        self.piix3 = Piix3Isa(isa_line=irq, reset=reset)
        self.pci.add(self.piix3, 0x08, "PIIX3")
        ports.add(0xCF9, 1, self.piix3.rcr_read, self.piix3.rcr_write, width=4,
                  name="reset control")
        props = {prop: value for driver, prop, value in config.globals if driver == "PIIX4_PM"}
        run = self._runstate

        def switched_on(prop: str) -> bool:
            return props.get(prop, "0") in ("1", "on", "true")

        self.pm = Piix4Pm(
            clock=self.clock, sci=irq(SCI_IRQ), ports=ports,
            suspend=self._asking(run.request_suspend), suspend_disk=run.suspend_disk,
            power_off=self._asking(
                lambda: run.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)),
            smi=self.cpu.raise_smi, smm_enabled=config.smm,
            disable_s3=switched_on("disable_s3"),
            disable_s4=switched_on("disable_s4"),
            s4_val=int(props.get("s4_val", "2"), 0))
        self.pci.add(self.pm, 0x0B, "PIIX4_PM")
        ports.add(0xB2, 2, self.pm.apm_read, self.pm.apm_write, name="SMI_CMD")

    def _add_serial(self, transmit: Callable[[bytes], None], props: dict[str, str]) -> None:
        index = int(props.get("index", str(len(self.serials))), 0)
        if index >= len(SERIAL_PORTS):
            raise ConfigError("Max. supported number of ISA serial ports is 4.")
        base, irq = SERIAL_PORTS[index]
        base, irq = int(props.get("iobase", str(base)), 0), int(props.get("irq", str(irq)), 0)
        serial = Serial16550(clock=self.clock, irq=self.isa_line(irq),
                             transmit=transmit)
        self.serials.append(serial)
        self.ports.add(base, 8, serial.read, serial.write, name=f"16550 #{index}")

    def _add_device(self, spec: DeviceSpec) -> None:
        """`-device`: one of the board's optional devices."""
        add = _OPTIONAL.get(spec.driver)
        if add is None:
            raise ConfigError(f"'{spec.driver}' is not a valid device model name")
        add(self, spec)

    def _output(self, spec: DeviceSpec) -> Callable[[bytes], None]:
        return self._chardevs.get(spec.props.get("chardev", ""), _nowhere)

    def _add_isa_serial(self, spec: DeviceSpec) -> None:
        self._add_serial(self._output(spec), spec.props)

    def _add_debugcon(self, spec: DeviceSpec) -> None:
        debugcon = DebugCon(write=self._output(spec), readback=_number(spec, "readback", 0xE9))
        self.ports.add(_number(spec, "iobase", 0xE9), 1, debugcon.read, debugcon.write,
                       name="isa-debugcon")

    def _add_debug_exit(self, spec: DeviceSpec) -> None:
        def leave(code: int) -> None:
            self._runstate.request_shutdown(ShutdownCause.GUEST_SHUTDOWN, exit_code=code)
            self.cpu.kick()

        debug_exit = DebugExit(exit=leave)
        self.ports.add(_number(spec, "iobase", 0x501), _number(spec, "iosize", 2),
                       debug_exit.read, debug_exit.write, width=4, name="isa-debug-exit")

    def _add_pvpanic(self, spec: DeviceSpec) -> None:
        run = self._runstate
        pvpanic = PvpanicIsa(panicked=self._asking(run.guest_panicked),
                             crash_loaded=self._asking(run.guest_crash_loaded),
                             shutdown=self._asking(run.guest_pvshutdown),
                             events=_number(spec, "events", 7))
        self.ports.add(_number(spec, "ioport", 0x505), 1, pvpanic.read, pvpanic.write, width=4,
                       name="pvpanic")

    def _add_pc_testdev(self, spec: DeviceSpec) -> None:
        lines = [self.gsi_line(gsi) for gsi in range(24)]
        device = PcTestdev(line=lambda gsi, level: lines[gsi](level))
        add = self.ports.add
        add(0xE0, 4, device.data_read, device.data_write, width=4, name="pc-testdev data")
        add(0xE4, 4, reads_zero, device.flush_write, width=4, name="pc-testdev flush")
        add(0xE8, 4, device.data_read, device.data_write, name="pc-testdev bytes")
        add(0x2000, 24, reads_zero, device.irq_write, name="pc-testdev interrupts")
        self.cpu.memory.overlay(TESTDEV_MEMORY, TESTDEV_SIZE, device.memory_read,
                                device.memory_write)

    def _add_pci_testdev(self, spec: DeviceSpec) -> None:
        at: int | None = None

        def map_ports(base: int | None) -> None:
            nonlocal at
            if at is not None:
                self.ports.remove(at, PCI_TESTDEV_PORTS)
            at = base
            if base is not None:
                self.ports.add(base, PCI_TESTDEV_PORTS, device.ports_read, device.ports_write,
                               width=4, name="pci-testdev")

        window = self._window(PCI_TESTDEV_MEMORY, "pci-testdev",
                              lambda *access: device.memory_read(*access),
                              lambda *access: device.memory_write(*access))
        device = PciTestdev(map_memory=window, map_ports=map_ports)
        try:
            self.pci.add(device, _devfn(spec), spec.driver)
        except ValueError as error:
            raise ConfigError(f"{spec.origin}: {error}" if spec.origin else str(error)) from None
        self._optional_resets.append(device.reset)

    def _window(self, size: int, name: str, read: Callable[[int, int], int],
                write: Callable[[int, int, int], None]) -> Callable[[int | None], None]:
        """What a memory BAR of *size* bytes calls with its new place."""
        shown: int | None = None

        def move(base: int | None) -> None:
            nonlocal shown
            memory = self.cpu.memory
            if shown is not None:
                memory.unveil(shown, size)
            shown = None
            if base is not None:
                if memory.overlay(base, size, read, write):
                    shown = base
                else:
                    _guest.warning("%s at %#x would cover something else", name, base)
            self.cpu.forget_code()

        return move

    # -- lines that end at the run-state manager or the processor
    def _asking(self, request: Callable[[], None]) -> Callable[[], None]:
        """A latched request that a device makes: the slice ends so that it is served."""

        def ask() -> None:
            request()
            self.cpu.kick()

        return ask

    def _rtc_alarm(self) -> None:
        self._runstate.request_wakeup(WakeupReason.RTC)

    # -- what the run-state manager asks of the board
    def reset(self) -> None:
        """The reset line: every device, not the RAM, not what PAM shows."""
        self.before_reset()
        for reset in self._resets:
            reset()
        self.cpu.set_a20(True)
        self.cpu.reset()

    def suspended(self) -> None:
        """The guest enters S3: mark the shutdown byte for the firmware's resume path."""
        self.rtc.state.cmos[CMOS_SHUTDOWN_STATUS] = SHUTDOWN_S3_RESUME

    def wake(self, reason: WakeupReason) -> None:
        """Leave S3: reset all but RAM, and tell the guest why it woke."""
        self.reset()
        self.pm.wake(reason.value)


def _nowhere(_data: bytes) -> None:
    """A serial line or debug console with nothing at its other end."""


def _number(spec: DeviceSpec, name: str, default: int) -> int:
    value = spec.props.get(name)
    return default if value is None else int(value, 0)


def _devfn(spec: DeviceSpec) -> int | None:
    """`addr=`: device and function in hexadecimal, as `06.0` or `06`."""
    device, _, function = spec.props.get("addr", "").partition(".")
    return int(device, 16) << 3 | int(function or "0", 16) if device else None


#: `-device` driver -> what adds it
_OPTIONAL: dict[str, Callable[[PcBoard, DeviceSpec], None]] = {
    "isa-debug-exit": PcBoard._add_debug_exit,
    "isa-debugcon": PcBoard._add_debugcon,
    "isa-serial": PcBoard._add_isa_serial,
    "pc-testdev": PcBoard._add_pc_testdev,
    "pci-testdev": PcBoard._add_pci_testdev,
    "pvpanic": PcBoard._add_pvpanic,
}
