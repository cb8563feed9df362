"""CPU models and features: what CPUID shows, and what `-cpu` understands.

A model is one of Unicorn's own (family, caches, brand string), less the features
that nothing here implements, with the changes that `-cpu model,+a,-b,c=on` asks
for.  The processor writes the result into the engine's feature words, so what
CPUID shows is what is translated.  Names are QEMU 10's (target/i386/cpu.c).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CpuModel", "ModelError", "help_text", "resolve"]


class ModelError(Exception):
    """`-cpu` asks for something that there is not; the text is QEMU's line.

    *warnings*: lines to be said before it.
    """

    def __init__(self, text: str, warnings: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.warnings = warnings


class Word(NamedTuple):
    """A register of CPUID full of features.

    *number* is the engine's feature word.  *names* has a name for each bit from 0,
    "-" for none; *works* names those that are implemented here.
    """

    number: int
    leaf: int
    subleaf: int | None
    register: str
    names: tuple[str, ...]
    works: frozenset[str]

    @property
    def works_mask(self) -> int:
        return sum(1 << bit for bit, name in enumerate(self.names) if name in self.works)


def _word(number: int, leaf: int, subleaf: int | None, register: str, names: str,
          works: str) -> Word:
    return Word(number, leaf, subleaf, register, tuple(names.split()), frozenset(works.split()))


WORDS = (
    _word(0, 1, None, "EDX",
          "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush -"
          " ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
          "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush acpi mmx"
          " fxsr sse sse2 ss ht"),
    _word(1, 1, None, "ECX",
          "pni pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr pdcm -"
          " pcid dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave - avx f16c rdrand"
          " hypervisor",
          "pni pclmulqdq monitor ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes"
          " xsave hypervisor"),
    _word(2, 7, 0, "EBX",
          "fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep bmi2 erms invpcid rtm -"
          " zero-fcs-fds mpx - avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt"
          " clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl",
          "fsgsbase tsc-adjust bmi1 smep bmi2 erms adx smap clflushopt clwb"),
    _word(3, 7, 0, "ECX",
          "- avx512vbmi umip pku - waitpkg avx512vbmi2 - gfni vaes vpclmulqdq avx512vnni"
          " avx512bitalg - avx512-vpopcntdq - la57 - - - - - rdpid - bus-lock-detect cldemote -"
          " movdiri movdir64b - sgxlc pks", "pku umip"),
    _word(4, 7, 0, "EDX",
          "- - avx512-4vnniw avx512-4fmaps fsrm - - - avx512-vp2intersect - md-clear - - -"
          " serialize - tsx-ldtrk - - arch-lbr - - amx-bf16 avx512-fp16 amx-tile amx-int8"
          " spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd", ""),
    _word(6, 0x8000_0001, None, "EDX",
          "- - - - - - - - - - - syscall - - - - - - - - nx - mmxext - - fxsr-opt pdpe1gb rdtscp"
          " - lm 3dnowext 3dnow",
          "syscall nx mmxext pdpe1gb rdtscp lm 3dnowext 3dnow"),
    _word(7, 0x8000_0001, None, "ECX",
          "lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs"
          " xop skinit wdt - lwp fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb - -"
          " - - - - -",
          "lahf-lm cmp-legacy cr8legacy abm sse4a 3dnowprefetch"),
    _word(8, 0x8000_0007, None, "EDX", "- - - - - - - - invtsc", "invtsc"),
    _word(9, 0x8000_0008, None, "EBX",
          "clzero - xsaveerptr - - - - - - wbnoinvd - - ibpb - ibrs amd-stibp - stibp-always-on"
          " - - - - - - amd-ssbd virt-ssbd amd-no-ssb - amd-psfd", ""),
    _word(19, 0xD, 1, "EAX", "xsaveopt xsavec xgetbv1 xsaves xfd", "xsaveopt xgetbv1"),
    _word(20, 6, None, "EAX", "- - arat", "arat"),
)
#: the feature word of the states that XSAVE keeps (CPUID 0xD.0, EAX)
XSAVE_STATES = 21
_BITS = {name: (word, bit) for word in WORDS for bit, name in enumerate(word.names) if name != "-"}
#: other spellings
_ALIASES = {"sse3": "pni", "sse4_1": "sse4.1", "sse4-1": "sse4.1", "sse4_2": "sse4.2",
            "sse4-2": "sse4.2", "i64": "lm", "fxsr_opt": "fxsr-opt", "ffxsr": "fxsr-opt",
            "lahf_lm": "lahf-lm", "tsc_adjust": "tsc-adjust", "pclmuldq": "pclmulqdq",
            "xd": "nx", "cmp_legacy": "cmp-legacy", "invariant-tsc": "invtsc"}
#: AMD processors show these bits of leaf 1 in leaf 0x80000001 as well
AMD_ALIASES = 0x0183_F3FF

#: Hyper-V enlightenments; those of QEMU that a guest can do without are accepted and absent
HYPERV = frozenset({"hv-relaxed", "hv-crash", "hv-time", "hv-vpindex", "hv-frequencies"})
_HYPERV_ABSENT = frozenset({
    "hv-vapic", "hv-reset", "hv-runtime", "hv-synic", "hv-stimer", "hv-tlbflush", "hv-evmcs",
    "hv-ipi", "hv-stimer-direct", "hv-avic", "hv-syndbg", "hv-reenlightenment",
    "hv-enforce-cpuid", "hv-xmm-input", "hv-emsr-bitmap", "hv-tlbflush-ext",
    "hv-tlbflush-direct", "hv-no-nonarch-coresharing"})
#: properties with numbers, and those that mean nothing here
#: property -> (most that it may be, whether that is said as the type's name)
_NUMBERS = {
    "family": (270, ""), "model": (255, ""), "stepping": (15, ""),
    "tsc-frequency": ((1 << 63) - 1, ""),
    **{name: (0xFFFF_FFFF, "uint32_t")
       for name in ("level", "xlevel", "min-level", "min-xlevel", "phys-bits", "hv-spinlocks",
                    "apic-id")}}
_TEXTS = frozenset({"vendor", "model-id", "hv-vendor-id"})
_SWITCHES = frozenset({"check", "enforce", "migratable", "kvm", "pmu", "host-phys-bits", "lmce",
                       "l3-cache", "host-cache-info", "cpuid-0xb", "full-cpuid-auto-level",
                       "legacy-cache", "tcg-cpuid", "vmware-cpuid-freq"})

#: name -> (Unicorn's number, QEMU's line of help)
_MODELS = {
    "486": (7, ""), "Broadwell": (20, "Intel Core Processor (Broadwell)"),
    "Cascadelake-Server": (23, "Intel Xeon Processor (Cascadelake)"),
    "Conroe": (13, "Intel Celeron_4x0 (Conroe/Merom Class Core 2)"),
    "Cooperlake": (24, "Intel Xeon Processor (Cooperlake)"),
    "Denverton": (27, "Intel Atom Processor (Denverton)"),
    "Dhyana": (36, "Hygon Dhyana Processor"), "EPYC": (35, "AMD EPYC Processor"),
    "EPYC-Rome": (37, "AMD EPYC-Rome Processor"),
    "Haswell": (19, "Intel Core Processor (Haswell)"),
    "Icelake-Server": (26, "Intel Xeon Processor (Icelake)"),
    "IvyBridge": (18, "Intel Xeon E3-12xx v2 (Ivy Bridge)"),
    "KnightsMill": (29, "Intel Xeon Phi Processor (Knights Mill)"),
    "Nehalem": (15, "Intel Core i7 9xx (Nehalem Class Core i7)"),
    "Opteron_G1": (30, "AMD Opteron 240 (Gen 1 Class Opteron)"),
    "Opteron_G2": (31, "AMD Opteron 22xx (Gen 2 Class Opteron)"),
    "Opteron_G3": (32, "AMD Opteron 23xx (Gen 3 Class Opteron)"),
    "Opteron_G4": (33, "AMD Opteron 62xx class CPU"),
    "Opteron_G5": (34, "AMD Opteron 63xx class CPU"),
    "Penryn": (14, "Intel Core 2 Duo P9xxx (Penryn Class Core 2)"),
    "SandyBridge": (17, "Intel Xeon E312xx (Sandy Bridge)"),
    "Skylake-Client": (21, "Intel Core Processor (Skylake)"),
    "Skylake-Server": (22, "Intel Xeon Processor (Skylake)"),
    "Snowridge": (28, "Intel Atom Processor (SnowRidge)"),
    "Westmere": (16, "Westmere E56xx/L56xx/X56xx (Nehalem-C)"),
    "athlon": (11, "QEMU Virtual CPU version 2.5+"), "core2duo": (2, "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz"),  # noqa: E501
    "coreduo": (6, "Genuine Intel(R) CPU           T2600  @ 2.16GHz"),
    "kvm32": (5, "Common 32-bit KVM processor"), "kvm64": (3, "Common KVM processor"),
    "n270": (12, "Intel(R) Atom(TM) CPU N270   @ 1.60GHz"), "pentium": (8, ""),
    "pentium2": (9, ""), "pentium3": (10, ""),
    "phenom": (1, "AMD Phenom(tm) 9550 Quad-Core Processor"),
    "qemu32": (4, "QEMU Virtual CPU version 2.5+"), "qemu64": (0, "QEMU Virtual CPU version 2.5+"),
    "max": (0, "Enables all features supported by the accelerator in the current host"),
}

#: what QEMU 10 shows in place of Unicorn's QEMU 5.0
_VERSIONS = {"qemu64": {"family": 15, "model": 107, "stepping": 1},
             "max": {"family": 6, "model": 6, "stepping": 3}}
_TEXTS_OF = {"max": {"model-id": "QEMU TCG CPU version 2.5+"}}
#: feature words: (word's number, features)
_QEMU64_FEATURES = {
    0: "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse"
       " sse2",
    1: "pni cx16", 6: "syscall nx lm", 7: "lahf-lm"}


class CpuModel(NamedTuple):
    """What `-cpu` asked for, resolved.

    *changes*: feature -> on, in the order given.  *numbers* and *texts* are
    properties such as level, family, vendor.
    """

    name: str
    unicorn: int
    changes: dict[str, bool]
    numbers: dict[str, int]
    texts: dict[str, str]
    hyperv: frozenset[str]
    warnings: tuple[str, ...]

    def words(self, base: dict[int, int]) -> dict[int, int]:
        """The feature words, from those of Unicorn's model."""
        words = {word.number: base.get(word.number, 0) & word.works_mask for word in WORDS}
        if self.name in ("qemu64", "max"):
            for word in WORDS:
                names = _QEMU64_FEATURES.get(word.number, "").split()
                words[word.number] = sum(1 << word.names.index(name) for name in names)
        if self.name == "max":
            words = {word.number: word.works_mask for word in WORDS}
        words[1] |= 1 << 31                             # hypervisor
        words[8] |= 1 << 8                              # our TSC is invariant, always
        for feature, on in self.changes.items():
            word, bit = _BITS[feature]
            if on:
                words[word.number] |= 1 << bit & word.works_mask
            else:
                words[word.number] &= ~(1 << bit)
        xsave, pku = (words[_BITS[name][0].number] >> _BITS[name][1] & 1
                      for name in ("xsave", "pku"))
        words[XSAVE_STATES] = xsave * (3 | pku << 9)    # x87, SSE, PKRU
        return words

    def version(self, unicorn: int) -> int:
        """CPUID[1].EAX, from Unicorn's model's."""
        family = (unicorn >> 8 & 15) + (unicorn >> 20 & 255)
        model, stepping = unicorn >> 4 & 15 | unicorn >> 12 & 0xF0, unicorn & 15
        numbers = {**_VERSIONS.get(self.name, {}), **self.numbers}
        family = numbers.get("family", family)
        model, stepping = numbers.get("model", model), numbers.get("stepping", stepping)
        return (min(family, 15) << 8 | max(family - 15, 0) << 20
                | (model & 15) << 4 | (model >> 4) << 16 | stepping & 15)


def resolve(text: str) -> CpuModel:
    """`-cpu`'s argument.  Raises ModelError."""
    if not text:
        raise ModelError("-cpu option cannot be empty")
    name, *rest = text.split(",")
    known = name.removesuffix("-v1")
    if name == "host":
        raise ModelError("CPU model 'host' requires KVM or HVF")
    if known not in _MODELS or known == "max" != name:
        raise ModelError(f"unable to find CPU model '{name}'")
    changes: dict[str, bool] = {}
    numbers: dict[str, int] = {}
    texts = dict(_TEXTS_OF.get(known, {}))
    hyperv: set[str] = set()
    switches: dict[str, bool] = {}
    for item in (item for item in rest if item):
        if item[0] in "+-":
            prop, given, value = item[1:], "", "on" if item[0] == "+" else "off"
        else:
            prop, equals, value = item.partition("=")
            value = value if equals else "on"
            given = f"can't apply global {name}-x86_64-cpu.{prop}={value}: "
        prop = prop.replace("_", "-") if prop not in _ALIASES else prop
        prop = _ALIASES.get(prop, prop)
        if prop in _NUMBERS:
            numbers[prop] = _number(prop, value, given)
        elif prop in _TEXTS:
            texts[prop] = value
        elif prop in _BITS or prop in _SWITCHES or prop in HYPERV | _HYPERV_ABSENT or (
                prop == "hv-passthrough"):
            if value not in ("on", "off", "yes", "no", "true", "false", "y", "n"):
                raise ModelError(f"{given}Parameter '{prop}' expects 'on' or 'off'")
            on = value in ("on", "yes", "true", "y")
            if prop in _BITS:
                changes[prop] = on
            elif prop == "hv-passthrough":
                hyperv |= HYPERV if on else set()
            elif prop in HYPERV:
                (hyperv.add if on else hyperv.discard)(prop)
            else:
                switches[prop] = on
        else:
            raise ModelError(f"{given}Property '{name}-x86_64-cpu.{prop}' not found")
    if "vendor" in texts and len(texts["vendor"]) != 12:
        raise ModelError(f"can't apply global {name}-x86_64-cpu.vendor={texts['vendor']}: "
                         "value of property 'vendor' must consist of exactly 12 characters")
    # in the registers' order, as there
    warnings = [_missing(feature) for word in WORDS for feature in word.names
                if changes.get(feature) and feature not in word.works]
    if warnings and switches.get("enforce"):
        raise ModelError("TCG doesn't support requested features", tuple(warnings))
    if not switches.get("check", True):
        warnings = []
    if len(texts.get("hv-vendor-id", "")) > 12:
        warnings.append("hv-vendor-id truncated to 12 characters")
    return CpuModel(known, _MODELS[known][0], changes, numbers, texts, frozenset(hyperv),
                    tuple(warnings))


def _number(prop: str, value: str, given: str) -> int:
    """A property's number: an unsigned 64-bit one in C's notation, or one with a sign."""
    try:
        number = int(value, 8 if value[:1] == "0" and value.isdigit() else 0)
    except ValueError:
        number = 1 << 64
    if not -(1 << 63) <= number < 1 << 64:
        kind = "int64" if prop == "tsc-frequency" else "uint64"
        raise ModelError(f"{given}Parameter '{prop}' expects {kind}")
    most, kind = _NUMBERS[prop]
    if not 0 <= number <= most:
        raise ModelError(f"{given}Parameter '{prop}' expects {kind}" if kind
                         else f"{given}parameter '{prop}' can be at most {most}")
    return number


def _missing(feature: str) -> str:
    word, bit = _BITS[feature]
    subleaf = "" if word.subleaf is None or word.leaf == 7 else f",ECX={word.subleaf:02X}H"
    return (f"TCG doesn't support requested feature: CPUID"
            f"{'[EAX=' if subleaf else '.'}{word.leaf:02X}H{subleaf}{']' if subleaf else ''}"
            f":{word.register}.{feature} [bit {bit}]")


def help_text() -> str:
    """What `-cpu help` prints."""
    lines = ["Available CPUs:"]
    for name in sorted(_MODELS, key=lambda n: (n == "max", n)):
        text = _MODELS[name][1]
        lines.append(f"  {name:<20}  {text}".rstrip())
    lines += ["", "Recognized CPUID flags:"]
    line = " "
    for feature in sorted(_BITS):
        if len(line) + 1 + len(feature) >= 76:
            lines.append(line)
            line = " "
        line += " " + feature
    return "\n".join([*lines, line, ""])
