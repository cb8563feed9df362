"""The MSR file, without a processor."""

import pytest

from emu.msr import U64, MsrFile

MC_CTL, MC_STATUS, MC_ADDR, MC_MISC = range(0x400, 0x404)
MCG_CAP, PRED_CMD, HWCR = 0x179, 0x49, 0xC001_0015
NOT_CANONICAL = 0xAAAA_AAAA_AAAA_AAAA


class Registers:
    """A processor of named registers, with no APIC."""

    def __init__(self) -> None:
        self.state: dict[str, int] = {}
        self.tsc = 0

    def read(self, name: str) -> int:
        return self.state.get(name, 0)

    def write_state(self, name: str, value: int) -> None:
        self.state[name] = value

    def time_stamp(self) -> int:
        return self.tsc

    def set_time_stamp(self, value: int) -> None:
        self.tsc = value

    def read_apic_msr(self, number: int) -> int | None:
        return None

    def write_apic_msr(self, number: int, value: int) -> bool:
        return False

    def hyperv_crash(self, args: tuple[int, int, int, int, int]) -> None:
        raise AssertionError(args)

    def reference_ns(self) -> int:
        return 0


def msrs(*features: str) -> MsrFile:
    return MsrFile(Registers(), lambda name: name in features)


def banks(file: MsrFile) -> range:
    capabilities = file.read(MCG_CAP)
    assert capabilities is not None
    return range(capabilities & 0xFF)


@pytest.mark.parametrize("value", [0, U64, NOT_CANONICAL, 0x1234])
def test_a_banks_address_and_misc_hold_what_is_written(value: int) -> None:
    file = msrs("mca")
    for bank in banks(file):
        for register in (MC_ADDR, MC_MISC):
            assert file.write(register + 4 * bank, value)
            assert file.read(register + 4 * bank) == value


def test_a_banks_status_can_only_be_cleared_and_its_control_is_all_or_nothing() -> None:
    file = msrs("mca")
    for bank in banks(file):
        assert file.write(MC_STATUS + 4 * bank, 0)
        assert not file.write(MC_STATUS + 4 * bank, 1)
        assert file.write(MC_CTL + 4 * bank, 0)
        assert not file.write(MC_CTL + 4 * bank, NOT_CANONICAL)
        assert file.read(MC_CTL + 4 * bank) == 0
        assert file.write(MC_CTL + 4 * bank, U64)


@pytest.mark.parametrize("cleared", [1 << 10, 1, 1 << 10 | 1])
def test_a_banks_control_lets_go_of_the_bits_that_systems_clear(cleared: int) -> None:
    file = msrs("mca")      # Linux on an AMD processor of family 15: WRMSR 0x410 without bit 10
    assert file.write(MC_CTL + 4 * 4, U64 & ~cleared)
    assert file.read(MC_CTL + 4 * 4) == U64 & ~cleared
    assert not file.write(MC_CTL + 4 * 4, U64 & ~(1 << 11))


def test_an_amd_processors_time_stamp_counts_at_one_frequency() -> None:
    value = msrs("vendor-amd").read(HWCR)
    assert value is not None and value & 1 << 24        # TscFreqSel, or Linux blames the firmware
    assert msrs("vendor-intel").read(HWCR) is None


def test_there_is_nothing_past_the_last_bank_and_none_without_the_feature() -> None:
    file, without = msrs("mca"), msrs()
    past = MC_CTL + 4 * len(banks(file))
    for number in range(past, past + 4):
        assert file.read(number) is None
        assert not file.write(number, 0)
    assert without.read(MC_CTL) is None
    assert without.read(MCG_CAP) is None


@pytest.mark.parametrize("feature", ["spec-ctrl", "ibpb"])
def test_the_prediction_command_is_written_never_read(feature: str) -> None:
    file = msrs(feature)
    assert file.read(PRED_CMD) is None
    assert file.write(PRED_CMD, 0)
    assert file.write(PRED_CMD, 1)
    assert not any(file.write(PRED_CMD, 1 << bit) for bit in range(1, 64))


def test_there_is_no_prediction_command_without_the_feature() -> None:
    file = msrs()
    assert file.read(PRED_CMD) is None
    assert not file.write(PRED_CMD, 0)
