"""What `-cpu` understands: QEMU 10.0.2's words for what it does not."""

import pytest

from emu.cpu import hypervisor_leaf
from emu.models import WORDS, ModelError, help_text, resolve
from tests.emu.guest import make


def refused(text: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve(text)
    return caught.value


@pytest.mark.parametrize(("text", "said"), [
    ("", "-cpu option cannot be empty"),
    ("foo", "unable to find CPU model 'foo'"),
    ("Haswell-v9", "unable to find CPU model 'Haswell-v9'"),
    ("max-v1", "unable to find CPU model 'max-v1'"),
    ("help,foo", "unable to find CPU model 'help'"),
    ("host", "CPU model 'host' requires KVM or HVF"),
    ("qemu64,+foo", "Property 'qemu64-x86_64-cpu.foo' not found"),
    ("qemu64,-foo", "Property 'qemu64-x86_64-cpu.foo' not found"),
    ("qemu64,foo=on", "can't apply global qemu64-x86_64-cpu.foo=on: "
                      "Property 'qemu64-x86_64-cpu.foo' not found"),
    ("qemu64,~avx", "can't apply global qemu64-x86_64-cpu.~avx=on: "
                    "Property 'qemu64-x86_64-cpu.~avx' not found"),
    ("qemu64,avx=maybe", "can't apply global qemu64-x86_64-cpu.avx=maybe: "
                         "Parameter 'avx' expects 'on' or 'off'"),
    ("qemu64,stepping=on", "can't apply global qemu64-x86_64-cpu.stepping=on: "
                           "Parameter 'stepping' expects uint64"),
    ("qemu64,level=-1", "can't apply global qemu64-x86_64-cpu.level=-1: "
                        "Parameter 'level' expects uint32_t"),
    ("qemu64,family=500", "can't apply global qemu64-x86_64-cpu.family=500: "
                          "parameter 'family' can be at most 270"),
    ("qemu64,family=-1", "can't apply global qemu64-x86_64-cpu.family=-1: "
                         "parameter 'family' can be at most 270"),
    ("qemu64,model=256", "can't apply global qemu64-x86_64-cpu.model=256: "
                         "parameter 'model' can be at most 255"),
    ("qemu64,stepping=16", "can't apply global qemu64-x86_64-cpu.stepping=16: "
                           "parameter 'stepping' can be at most 15"),
    ("qemu64,tsc-frequency=2G", "can't apply global qemu64-x86_64-cpu.tsc-frequency=2G: "
                                "Parameter 'tsc-frequency' expects int64"),
    ("qemu64,vendor=abc", "can't apply global qemu64-x86_64-cpu.vendor=abc: "
                          "value of property 'vendor' must consist of exactly 12 characters"),
])
def test_a_mistake_is_told_in_qemus_words(text: str, said: str) -> None:
    assert str(refused(text)) == said


AVX = "TCG doesn't support requested feature: CPUID.01H:ECX.avx [bit 28]"
AVX512F = "TCG doesn't support requested feature: CPUID.07H:EBX.avx512f [bit 16]"


def test_features_that_are_not_implemented_are_told_in_the_registers_order() -> None:
    assert resolve("Haswell,+avx512f,+avx").warnings == (AVX, AVX512F)
    assert resolve("Haswell,+avx,-avx").warnings == ()
    assert resolve("Haswell,+avx,check=off").warnings == ()


def test_enforce_refuses_them_after_telling_each() -> None:
    error = refused("qemu64,+avx512f,+avx,enforce")
    assert str(error) == "TCG doesn't support requested features"
    assert error.warnings == (AVX, AVX512F)
    assert resolve("qemu64,+sse4.1,enforce").warnings == ()


def test_numbers_are_written_as_in_c() -> None:
    numbers = resolve("qemu64,level=0x1f,family=017,model=9").numbers
    assert numbers == {"level": 31, "family": 15, "model": 9}


@pytest.mark.parametrize("spelling", ["sse4.1", "sse4_1", "sse4-1"])
def test_a_feature_has_several_spellings(spelling: str) -> None:
    assert resolve(f"qemu64,+{spelling}").changes == {"sse4.1": True}


def test_the_last_word_on_a_feature_counts() -> None:
    assert resolve("qemu64,ssse3=on,ssse3=off").changes == {"ssse3": False}


def test_help_lists_models_and_features() -> None:
    lines = help_text().splitlines()
    assert lines[0] == "Available CPUs:"
    assert any(line.split()[:1] == ["Haswell"] for line in lines)
    assert all(len(line) < 77 for line in lines[lines.index("Recognized CPUID flags:"):])


def test_no_bit_is_named_twice() -> None:
    names = [name for word in WORDS for name in word.names if name != "-"]
    assert len(names) == len(set(names))
    assert all(word.works <= set(word.names) and len(word.names) <= 32 for word in WORDS)


@pytest.mark.parametrize(("model", "version"), [
    # CPUID[1].EAX of QEMU 10.0.2
    ("qemu64", 0x60FB1), ("max", 0x663), ("Haswell", 0x306C4),
    ("Haswell,family=270,model=255,stepping=15", 0xFFF0FFF)])
def test_family_model_and_stepping_are_qemus(model: str, version: int) -> None:
    cpu, _pins = make(cpu_model=model)
    assert cpu.cpuid_leaf(1, 0)[0] == version


def test_a_feature_taken_away_is_gone_from_cpuid() -> None:
    with_it, without = make()[0], make(cpu_model="Haswell,-movbe")[0]
    assert with_it.cpuid_leaf(1, 0)[2] & ~without.cpuid_leaf(1, 0)[2] == 1 << 22


def test_max_names_itself_as_qemu_does() -> None:
    cpu, _pins = make(cpu_model="max")
    words = [word for leaf in range(0x8000_0002, 0x8000_0005) for word in cpu.cpuid_leaf(leaf, 0)]
    text = b"".join(word.to_bytes(4, "little") for word in words).rstrip(b"\0")
    assert text == b"QEMU TCG CPU version 2.5+"


# -- Hyper-V
def test_without_enlightenments_the_hypervisor_is_tcg() -> None:
    model = resolve("qemu64")
    assert hypervisor_leaf(0x4000_0000, model) == (
        0x4000_0001, 0x5447_4354, 0x4354_4743, 0x4743_5447)


def test_hyperv_crash_is_offered_in_edx_bit_10() -> None:
    model = resolve("qemu64,hv_crash")
    assert hypervisor_leaf(0x4000_0000, model)[1:] == tuple(
        int.from_bytes(part, "little") for part in (b"Micr", b"osof", b"t Hv"))
    assert hypervisor_leaf(0x4000_0001, model)[0] == int.from_bytes(b"Hv#1", "little")
    assert hypervisor_leaf(0x4000_0003, model)[3] == 1 << 10
    assert hypervisor_leaf(0x4000_0003, resolve("qemu64,hv-relaxed"))[3] == 0


def test_hv_passthrough_takes_all_that_there_is() -> None:
    assert "hv-crash" in resolve("qemu64,hv-passthrough").hyperv
    assert "hv-crash" not in resolve("qemu64,hv-passthrough,hv-crash=off").hyperv


def test_an_enlightenment_that_is_not_there_is_taken_without_a_word() -> None:
    model = resolve("qemu64,hv-synic,hv-stimer")
    assert not model.hyperv and not model.warnings


def test_a_long_hyperv_vendor_is_cut() -> None:
    model = resolve("qemu64,hv-crash,hv-vendor-id=abcdefghijklmnop")
    assert model.warnings == ("hv-vendor-id truncated to 12 characters",)
    assert hypervisor_leaf(0x4000_0000, model)[3] == int.from_bytes(b"ijkl", "little")


@pytest.mark.parametrize(("model", "leaf", "subleaf", "shown"), [
    # as QEMU 10.0.2 shows them
    ("Haswell", 2, 0, (1, 0, 0x4D, 0x2C307D)),
    ("Haswell", 4, 3, (0x163, 0x03C0003F, 0x3FFF, 6)),
    ("Haswell", 4, 4, (0, 0, 0, 0)),
    ("qemu64", 2, 0, (0, 0, 0, 0)),
    ("qemu64", 4, 0, (0, 0, 0, 0)),
    ("Haswell", 0xB, 0, (0, 1, 0x100, 0)),
    ("Haswell", 0xB, 1, (0, 1, 0x201, 0)),
    ("Haswell", 0xB, 2, (0, 0, 2, 0)),
    ("Conroe", 0xB, 0, (0, 0, 0, 0)),
    ("Haswell", 0x80000006, 0, (0, 0x42004200, 0x02008140, 0x00808140)),
    ("EPYC", 0x80000006, 0, (0, 0x42004200, 0x02006140, 0x00408140)),
    ("Haswell", 0x80000001, 0, (0x306C4, 0, 0x21, 0x28100000)),     # no SYSCALL outside long mode
])
def test_caches_and_topology_are_qemus(model: str, leaf: int, subleaf: int,
                                       shown: tuple[int, int, int, int]) -> None:
    cpu, _pins = make(cpu_model=model)
    assert cpu.cpuid_leaf(leaf, subleaf) == shown
