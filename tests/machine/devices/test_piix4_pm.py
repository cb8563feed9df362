"""The PIIX4 power management function: where its block is, PM1, the SCI, S3 and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from machine.clock import NS_PER_SECOND, Clock
from machine.devices.piix4_pm import PM_TIMER_HZ, Piix4Pm
from machine.ports import PortBus

BASE = 0x600
STS, EN, CNT, TMR = BASE, BASE + 2, BASE + 4, BASE + 8
HALF = 1 << 23                      # counts from one toggle of bit 23 to the next
NOTHING: list[str] = []


def ns_of(count: int) -> int:
    """The first nanosecond at which the timer reads *count*."""
    return -(-count * NS_PER_SECOND // PM_TIMER_HZ)


class Board:
    def __init__(self, *, disable_s3: bool = False, disable_s4: bool = False, s4_val: int = 2,
                 smm_enabled: bool = True) -> None:
        self.now = 0
        self.clock = Clock(source=lambda: self.now)
        self.ports = PortBus()
        self.sci: list[bool] = []
        self.asked: list[str] = []
        ask = self.asked.append
        self.pm = Piix4Pm(
            clock=self.clock, sci=self.sci.append, ports=self.ports,
            suspend=lambda: ask("suspend"), suspend_disk=lambda: ask("suspend disk"),
            power_off=lambda: ask("power off"), smi=lambda: ask("smi"), disable_s3=disable_s3,
            disable_s4=disable_s4, s4_val=s4_val, smm_enabled=smm_enabled)
        self.ports.add(0xB2, 2, self.pm.apm_read, self.pm.apm_write)

    def map(self, base: int = BASE) -> None:
        """As the golden guest does it."""
        self.pm.config_write(0x40, base | 1, 4)
        self.pm.config_write(0x80, 1, 1)

    def run_to(self, ns: int) -> None:
        """Let time pass, timers and all."""
        while (due := self.clock.next_deadline()) is not None and due <= ns:
            self.now = max(self.now, due)
            self.clock.fire_due()
        self.now = ns

    def inw(self, port: int) -> int:
        return self.ports.read(port, 2)

    def outw(self, port: int, value: int) -> None:
        self.ports.write(port, value, 2)

    @property
    def level(self) -> bool:
        return self.sci[-1] if self.sci else False


@pytest.fixture
def unmapped() -> Board:
    return Board()


@pytest.fixture
def board() -> Board:
    """Mapped, TMR_STS cleared for the first time, nothing called yet."""
    board = Board()
    board.map()
    board.outw(STS, 1)
    board.sci.clear()
    return board


# -- configuration space

AFTER_RESET = bytearray(256)
for _row, _text in {
        0x00: "86 80 13 71 00 00 80 02 03 00 80 06 00 00 00 00",
        0x20: "00 00 00 00 00 00 00 00 00 00 00 00 f4 1a 00 11",
        0x30: "00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00",
        0x40: "01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        0x50: "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 10",
        0x60: "00 00 00 60 00 00 00 00 00 00 00 00 00 00 00 00",
        0x90: "01 b1 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        0xD0: "00 00 09 00 00 00 00 00 00 00 00 00 00 00 00 00"}.items():
    AFTER_RESET[_row:_row + 16] = bytes.fromhex(_text)


def test_configuration_space_after_reset_is_qemu_s(unmapped: Board) -> None:
    unmapped.pm.machine_ready()
    unmapped.pm.reset()
    assert unmapped.pm.config.hex(" ") == AFTER_RESET.hex(" ")


def test_reset_loads_some_registers_and_keeps_the_others(unmapped: Board) -> None:
    for offset in range(256):
        unmapped.pm.config_write(offset, 0xA5, 1)
    unmapped.pm.reset()
    expected = bytearray(b"\xa5" * 256)
    expected[:0x40] = AFTER_RESET[:0x40]
    for register, value in {0x40: 1, 0x58: 0, 0x59: 0, 0x5A: 0, 0x5B: 0, 0x80: 0}.items():
        expected[register] = value
    assert unmapped.pm.config.hex(" ") == expected.hex(" ")


@pytest.mark.parametrize(("devices", "expected"), [
    ((), (0x10, 0x60, 0x00)), ((0x3F8,), (0x10, 0x60, 0x08)), ((0x2F8,), (0x10, 0x60, 0x90)),
    ((0x378, 0x3F8, 0x2F8), (0x90, 0x60, 0x98))])
def test_the_board_s_isa_devices_are_told(unmapped: Board, devices: tuple[int, ...],
                                          expected: tuple[int, int, int]) -> None:
    for port in devices:
        unmapped.ports.add(port, 8, None, None)
    unmapped.pm.machine_ready()
    assert tuple(unmapped.pm.config[i] for i in (0x5F, 0x63, 0x67)) == expected


def test_without_smm_a_reset_leaves_apmc_en_set() -> None:
    board = Board(smm_enabled=False)
    assert board.pm.config_read(0x5B, 1) == 2
    board.pm.config_write(0x5B, 0, 1)
    board.pm.reset()
    assert board.pm.config_read(0x5B, 1) == 2


# -- where the block is


def test_the_block_is_nowhere_after_power_on(unmapped: Board) -> None:
    assert [port for port in range(0x10000) if unmapped.ports.name_of(port) == "PIIX4 PM"] == []
    unmapped.pm.config_write(0x40, BASE | 1, 4)
    assert unmapped.inw(STS) == 0xFFFF


def test_pmba_and_pmiose_bring_it_whatever_the_command_register_says(unmapped: Board) -> None:
    unmapped.map()
    assert unmapped.pm.config_read(0x04, 2) == 0
    assert unmapped.inw(CNT) == 0
    assert unmapped.pm.config_read(0x40, 4) == 0x601


def test_only_registers_answer_in_the_block(board: Board) -> None:
    answering = [port - BASE for port in range(BASE, BASE + 64)
                 if board.ports.name_of(port) is not None]
    assert answering == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]


def test_clearing_pmiose_takes_it_away(board: Board) -> None:
    board.pm.config_write(0x80, 0xFE, 1)
    assert board.inw(CNT) == 0xFFFF
    assert board.ports.name_of(STS) is None


def test_it_moves_with_any_byte_of_pmba(board: Board) -> None:
    board.outw(CNT, 1)
    board.pm.config_write(0x41, 0x07, 1)
    assert board.inw(CNT) == 0xFFFF
    assert board.inw(0x704) == 1


@pytest.mark.parametrize(("pmba", "port"), [
    (0x12340600, 0x604), (0xFFFFFFFF, 0xFFC4), (0x0000063F, 0x604)])
def test_only_bits_15_to_6_of_pmba_count(board: Board, pmba: int, port: int) -> None:
    board.outw(CNT, 1)
    board.pm.config_write(0x40, pmba, 4)
    assert board.inw(port) == 1
    assert board.pm.config_read(0x40, 4) == pmba


def test_other_devices_ports_stay_theirs(unmapped: Board) -> None:
    unmapped.ports.add(0x606, 1, lambda offset, size: 7, None, name="pvpanic")
    unmapped.ports.add(0x602, 1, lambda offset, size: 0x42, None, name="mine")
    unmapped.map()
    assert unmapped.ports.read(0x606, 1) == 7
    assert unmapped.ports.read(0x602, 1) == 0x42
    assert unmapped.ports.read(0x600, 1) == 1
    unmapped.pm.config_write(0x80, 0, 1)
    assert unmapped.ports.read(0x602, 1) == 0x42
    assert unmapped.ports.read(0x606, 1) == 7
    assert unmapped.ports.name_of(0x600) is None


# -- PM1_STS and the timer bit


def test_after_power_on_tmr_sts_is_set(unmapped: Board) -> None:
    unmapped.map()
    assert unmapped.inw(STS) == 0x0001
    assert unmapped.inw(STS) == 0x0001


def test_tmr_sts_cleared_comes_back_when_bit_23_toggles(board: Board) -> None:
    for toggle in (1, 2, 3):
        board.now = ns_of(toggle * HALF) - 1
        assert board.ports.read(TMR, 4) & HALF == (0 if toggle % 2 else HALF)
        assert board.inw(STS) == 0
        board.now += 1
        assert board.inw(STS) == 1
        board.outw(STS, 1)
        assert board.inw(STS) == 0


def test_status_is_cleared_by_ones_only(board: Board) -> None:
    board.pm.wake("rtc")
    assert board.inw(STS) == 0x8400
    board.outw(STS, 0x0400)
    assert board.inw(STS) == 0x8000
    board.outw(STS, 0)
    assert board.inw(STS) == 0x8000
    board.outw(STS, 0xFFFF)
    assert board.inw(STS) == 0


def test_clearing_others_does_not_rearm_the_timer_bit(board: Board) -> None:
    board.now = ns_of(HALF)
    board.outw(STS, 0x8000)
    assert board.inw(STS) == 1


# -- access widths (each seen on QEMU 10.0.2)


def test_bytes_of_status_and_enable(board: Board) -> None:
    board.pm.wake("other")
    board.outw(EN, 0x1235)
    read = [board.ports.read(BASE + i, 1) for i in range(4)]
    assert read == [0x00, 0x00, 0x35, 0x00]
    board.ports.write(BASE + 1, 0xFF, 1)
    assert board.inw(STS) == 0x8100
    board.ports.write(EN, 0xAB, 1)
    assert board.inw(EN) == 0x00AB
    board.ports.write(EN + 1, 0xCD, 1)
    assert board.inw(EN) == 0x00AB


def test_bytes_of_control(board: Board) -> None:
    board.outw(CNT, 0xDF7F)
    assert board.inw(CNT) == 0xDF7F
    assert [board.ports.read(CNT + i, 1) for i in range(2)] == [0x7F, 0xDF]
    board.ports.write(CNT, 0x12, 1)
    assert board.inw(CNT) == 0x0012
    board.ports.write(CNT + 1, 0x5A, 1)
    assert board.inw(CNT) == 0x5A12


def test_wide_accesses_reach_two_registers(board: Board) -> None:
    board.ports.write(STS, 0x01000000, 4)
    assert board.inw(EN) == 0x0100
    board.ports.write(CNT, 0x00010203, 4)
    assert board.inw(CNT) == 0x0203
    assert board.ports.read(STS, 4) == 0x01000000
    assert board.ports.read(CNT, 4) == 0xFFFF0203


def test_any_part_of_the_timer_reads_its_low_bits(board: Board) -> None:
    board.now = ns_of(0x36AD2C)
    assert board.ports.read(TMR, 4) == 0x36AD2C
    assert [board.ports.read(TMR + i, 1) for i in range(4)] == [0x2C] * 4
    assert [board.ports.read(TMR + i, 2) for i in range(4)] == [0xAD2C, 0x2C2C, 0xAD2C, 0xFF2C]
    assert [board.ports.read(TMR + i, 4) for i in (1, 2, 3)] == [
        0xFFAD2C2C, 0xFFFFAD2C, 0xFFFFFF2C]


# -- PM_TMR


def test_the_timer_counts_at_3_579545_mhz_in_24_bits(board: Board) -> None:
    board.now = NS_PER_SECOND
    assert board.ports.read(TMR, 4) == PM_TIMER_HZ
    board.now = 10 * NS_PER_SECOND
    assert board.ports.read(TMR, 4) == 10 * PM_TIMER_HZ % (1 << 24)


def test_the_timer_cannot_be_written(board: Board) -> None:
    board.now = NS_PER_SECOND
    board.ports.write(TMR, 0x1234, 4)
    assert board.ports.read(TMR, 4) == PM_TIMER_HZ


def test_the_timer_stops_with_its_clock(board: Board) -> None:
    board.now = NS_PER_SECOND
    board.clock.freeze()
    board.now = 5 * NS_PER_SECOND
    assert board.ports.read(TMR, 4) == PM_TIMER_HZ


# -- the SCI


def test_the_timer_raises_the_sci_when_enabled(board: Board) -> None:
    board.outw(EN, 1)
    assert not board.level
    assert board.clock.next_deadline() == ns_of(HALF)
    board.run_to(ns_of(HALF) - 1)
    assert not board.level
    board.run_to(ns_of(HALF))
    assert board.level
    assert board.clock.next_deadline() is None
    board.outw(STS, 1)
    assert not board.level
    assert board.clock.next_deadline() == ns_of(2 * HALF)


def test_one_deadline_is_enough_for_a_toggle(board: Board) -> None:
    board.outw(EN, 1)
    for toggle in range(1, 200):
        board.now = ns_of(toggle * HALF)
        assert board.clock.fire_due() == 1
        assert board.level
        board.outw(STS, 1)


def test_disabling_the_timer_disarms_it(board: Board) -> None:
    board.outw(EN, 1)
    board.outw(EN, 0)
    assert board.clock.next_deadline() is None
    board.run_to(ns_of(HALF))
    assert not board.level


def test_enabling_a_set_status_raises_at_once(unmapped: Board) -> None:
    unmapped.map()
    unmapped.outw(EN, 1)
    assert unmapped.level
    unmapped.outw(EN, 0)
    assert not unmapped.level


@pytest.mark.parametrize(("reason", "bit"), [("rtc", 0x400), ("other", 0x100)])
def test_status_and_enable_together_make_the_level(board: Board, reason: str, bit: int) -> None:
    board.pm.wake(reason)
    assert not board.level
    board.outw(EN, bit)
    assert board.level
    board.outw(STS, bit)
    assert not board.level


def test_wak_sts_raises_no_sci(board: Board) -> None:
    board.pm.wake("other")
    board.outw(STS, 0x0100)
    board.outw(EN, 0xFFFF)
    assert board.inw(STS) == 0x8000
    assert not board.level


def test_sci_en_does_not_gate_it(board: Board) -> None:
    assert not board.inw(CNT) & 1
    board.outw(EN, 0x100)
    board.pm.power_button()
    assert board.level


# -- the power button


def test_the_power_button_is_seen_by_a_guest_that_listens(board: Board) -> None:
    board.outw(EN, 0x0100)
    board.pm.power_button()
    assert board.inw(STS) == 0x0100
    assert board.level
    board.outw(STS, 0x0100)
    assert board.inw(STS) == 0
    assert not board.level


def test_the_power_button_leaves_no_trace_otherwise(board: Board) -> None:
    board.outw(EN, 0xFEFF)
    board.sci.clear()
    board.pm.power_button()
    assert board.inw(STS) == 0
    board.outw(EN, 0x0100)
    assert not board.level


# -- sleep


@pytest.mark.parametrize(("value", "asked"), [
    (0x2001, ["power off"]), (0x2401, ["suspend"]), (0x2801, ["suspend disk", "power off"]),
    (0x2C01, NOTHING), (0x3001, NOTHING), (0x3C01, NOTHING), (0x0001, NOTHING),
    (0x0401, NOTHING), (0x0801, NOTHING)])
def test_slp_en_acts_on_slp_typ(board: Board, value: int, asked: list[str]) -> None:
    board.outw(CNT, value)
    assert board.asked == asked
    assert board.inw(CNT) == value & ~0x2000


def test_the_high_byte_alone_puts_to_sleep(board: Board) -> None:
    board.outw(CNT, 0x0001)
    board.ports.write(CNT + 1, 0x24, 1)
    assert board.asked == ["suspend"]
    assert board.inw(CNT) == 0x0401


def test_each_write_of_slp_en_asks(board: Board) -> None:
    board.outw(CNT, 0x2401)
    board.outw(CNT, 0x2401)
    assert board.asked == ["suspend", "suspend"]


def test_the_s4_value_is_a_property() -> None:
    board = Board(s4_val=3)
    board.map()
    board.outw(CNT, 0x2801)
    assert board.asked == []
    board.outw(CNT, 0x2C01)
    assert board.asked == ["suspend disk", "power off"]


def test_disabled_sleep_states_still_obey_the_register() -> None:
    board = Board(disable_s3=True, disable_s4=True)
    board.map()
    board.outw(CNT, 0x2401)
    board.outw(CNT, 0x2801)
    assert board.asked == ["suspend", "suspend disk", "power off"]


def test_firmware_is_told_of_the_sleep_states() -> None:
    assert Board().pm.system_states.hex() == "800000818280"
    assert Board(disable_s3=True).pm.system_states.hex() == "800000018280"
    assert Board(disable_s4=True).pm.system_states.hex() == "800000810280"
    assert Board(s4_val=3).pm.system_states.hex() == "800000818380"


# -- wake-up


@pytest.mark.parametrize(("reason", "status"), [
    ("other", 0x8101), ("rtc", 0x8401), ("pm-timer", 0x8001)])
def test_after_a_wake_up_the_guest_sees_why(board: Board, reason: str, status: int) -> None:
    board.ports.write(0xB2, 0xF1, 1)
    board.outw(EN, 0x0501)
    board.outw(CNT, 0x2401)
    board.pm.reset()
    board.pm.wake(reason)
    board.map()
    board.ports.write(0xB2, 0xF1, 1)
    assert (board.inw(STS), board.inw(EN), board.inw(CNT)) == (status, 0, 1)


def test_a_reason_needs_its_enable_bit(board: Board) -> None:
    def enabled() -> list[str]:
        return [reason for reason in ("other", "rtc", "pm-timer")
                if board.pm.wake_enabled(reason)]

    assert enabled() == ["other"]
    board.outw(EN, 0x0400)
    assert enabled() == ["other", "rtc"]
    board.outw(EN, 0x0001)
    assert enabled() == ["other", "pm-timer"]
    board.outw(EN, 0x0501)
    board.pm.reset()
    assert enabled() == ["other"]


# -- reset


def test_reset_clears_pm1_and_hides_it_but_keeps_the_base(board: Board) -> None:
    board.outw(EN, 0x0100)
    board.outw(CNT, 0x0401)
    board.pm.power_button()
    board.ports.write(0xAFE2, 0xA5, 1)
    assert board.level
    board.pm.reset()
    assert not board.level
    assert board.inw(STS) == 0xFFFF
    assert board.pm.config_read(0x40, 4) == 0x601
    assert board.ports.read(0xAFE0, 4) == 0
    board.pm.config_write(0x80, 1, 1)
    assert (board.inw(STS), board.inw(EN), board.inw(CNT)) == (0x0001, 0, 0)


def test_reset_disarms_the_timer(board: Board) -> None:
    board.outw(EN, 1)
    assert board.clock.next_deadline() is not None
    board.pm.reset()
    assert board.clock.next_deadline() is None


# -- GPE0


def test_gpe0_status_is_write_1_to_clear_and_enable_is_kept(board: Board) -> None:
    board.pm.state.gpe0[0] = 0x0F
    board.ports.write(0xAFE0, 0x05, 1)
    assert board.ports.read(0xAFE0, 1) == 0x0A
    board.ports.write(0xAFE2, 0x5AA5, 2)
    assert board.ports.read(0xAFE0, 4) == 0x5AA5000A
    board.ports.write(0xAFE0, 0x12345678, 4)
    assert board.ports.read(0xAFE0, 4) == 0x12340002
    assert board.ports.read(0xAFE4, 1) == 0xFF


def test_gpe0_drives_the_sci(board: Board) -> None:
    board.pm.state.gpe0[0] = 0x02
    board.ports.write(0xAFE2, 0x02, 1)
    assert board.level
    board.ports.write(0xAFE0, 0x02, 1)
    assert not board.level


# -- SMI_CMD


def test_acpi_enable_and_disable_move_sci_en_alone(board: Board) -> None:
    board.outw(CNT, 0x0202)
    board.ports.write(0xB2, 0xF1, 1)
    assert board.inw(CNT) == 0x0203
    board.ports.write(0xB2, 0xF0, 1)
    assert board.inw(CNT) == 0x0202
    assert board.asked == []


def test_the_bytes_of_smi_cmd_are_kept_over_a_reset(board: Board) -> None:
    board.ports.write(0xB2, 0x5678, 2)
    assert [board.ports.read(port, 1) for port in (0xB2, 0xB3)] == [0x78, 0x56]
    board.pm.reset()
    assert board.ports.read(0xB2, 2) == 0x5678


def test_smi_only_with_apmc_en_and_not_for_acpi_commands(board: Board) -> None:
    board.ports.write(0xB2, 0x12, 1)
    assert board.asked == []
    board.pm.config_write(0x58, 0x02000000, 4)
    for value, asked in ((0xF1, NOTHING), (0xF0, NOTHING), (0x12, ["smi"])):
        board.ports.write(0xB2, value, 1)
        assert board.asked == asked
    board.ports.write(0xB3, 0x12, 1)
    assert board.asked == ["smi"]


# -- snapshots


def test_a_restored_state_maps_the_block_and_arms_the_timer(board: Board) -> None:
    board.outw(EN, 0x0101)
    board.outw(CNT, 0x0401)
    board.pm.power_button()
    other = Board()
    other.pm.state = replace(board.pm.state, config=bytearray(board.pm.config))
    other.pm.restored()
    assert (other.inw(STS), other.inw(EN), other.inw(CNT)) == (0x0100, 0x0101, 0x0401)
    assert other.level
    assert other.clock.next_deadline() == ns_of(HALF)
