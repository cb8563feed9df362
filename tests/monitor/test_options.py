"""The command line: what it makes, and what it says about mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from machine.config import DeviceSpec
from monitor.options import OPTIONS, MonitorSpec, OptionError, Options, help_text, parse

ROOT = Path(__file__).parents[2]


def options(*arguments: str, terminal: bool = False) -> Options:
    return parse(arguments, prog="snooze", version="1.2.3", terminal=terminal)


def mistake(line: str) -> list[str]:
    """The lines for stderr, without the program's name."""
    with pytest.raises(OptionError) as caught:
        options(*line.split())
    return str(caught.value).split("\0")


def test_nothing_given_means_a_pc_with_qemus_defaults() -> None:
    got = options()
    assert got.machine.ram_mb == 128 and got.machine.start
    assert got.machine.panic_action == "shutdown" and got.machine.icount_shift is None
    assert [spec.backend for spec in got.chardevs] == ["vc"]
    assert got.serials == ["serial0"] and got.monitors == [] and not got.console


def test_a_terminal_gets_the_console_unless_something_was_chosen() -> None:
    assert options(terminal=True).console
    assert options("-S", "-m", "16", terminal=True).console
    for chosen in (["-nographic"], ["-serial", "null"], ["-monitor", "none"], ["-nodefaults"],
                   ["-display", "none"], ["-qmp", "unix:x,server=on"]):
        assert not options(*chosen, terminal=True).console


@pytest.mark.parametrize(("text", "megabytes"), [
    ("16", 16), ("16M", 16), ("size=1G", 1024), ("1.5G", 1536), ("2048k", 2), ("0", 128)])
def test_memory_sizes_are_in_mib_without_a_suffix(text: str, megabytes: int) -> None:
    assert options("-m", text).machine.ram_mb == megabytes


def test_two_dashes_are_as_good_as_one() -> None:
    assert options("--m", "16", "--S").machine.ram_mb == 16


def test_actions_and_their_short_forms_set_the_same() -> None:
    machine = options("-no-reboot", "-no-shutdown", "-watchdog-action", "pause",
                      "-action", "panic=none").machine
    assert (machine.reboot_action, machine.shutdown_action, machine.panic_action,
            machine.watchdog_action) == ("shutdown", "pause", "none", "pause")


def test_accelerator_icount_rtc_and_globals_reach_the_configuration() -> None:
    machine = options("-accel", "tcg,one-insn-per-tb=on", "-icount", "shift=auto,sleep=on",
                      "-rtc", "base=2025-01-01T00:00:00,clock=vm",
                      "-global", "PIIX4_PM.disable_s3=1", "-name", "guest=a,,b").machine
    assert machine.one_insn_per_tb
    assert machine.icount_shift == 2
    assert (machine.rtc_base, machine.rtc_clock) == ("2025-01-01T00:00:00", "vm")
    assert machine.globals == [("PIIX4_PM", "disable_s3", "1")]
    assert machine.name == "a,b"


def test_the_usual_management_command_line() -> None:
    got = options("-nodefaults", "-chardev", "socket,id=ser,path=/s,server=on,wait=on",
                  "-serial", "chardev:ser", "-chardev", "file,id=dbg,path=/d",
                  "-device", "isa-debugcon,iobase=0x402,chardev=dbg",
                  "-chardev", "socket,id=qmp,path=/q,server=on", "-mon",
                  "chardev=qmp,mode=control,pretty=on")
    assert [spec.id for spec in got.chardevs] == ["ser", "dbg", "qmp"]
    assert got.serials == ["ser"]
    assert got.monitors == [MonitorSpec("qmp", "control", True,
                                        "-mon chardev=qmp,mode=control,pretty=on")]
    assert got.machine.devices == [
        DeviceSpec("isa-debugcon", {"iobase": "0x402", "chardev": "dbg"})]


def test_nographic_puts_serial_port_and_monitor_on_one_stdio() -> None:
    got = options("-nographic")
    (spec,) = got.chardevs
    assert spec.backend == "stdio" and spec.mux
    assert got.serials == [spec.id] and [m.chardev for m in got.monitors] == [spec.id]


def test_old_style_sockets_take_bare_flags_without_a_warning() -> None:
    got = options("-qmp", "unix:/q,server,nowait")
    assert dict(got.chardevs[0].params) == {"path": "/q", "server": "on", "wait": "off"}
    assert got.warnings == []


def test_bare_flags_elsewhere_are_taken_with_a_warning() -> None:
    got = options("-chardev", "socket,id=a,path=/q,server=on,nowait")
    assert dict(got.chardevs[0].params)["wait"] == "off"
    assert got.warnings == ["-chardev socket,id=a,path=/q,server=on,nowait: warning: short-form "
                            "boolean option 'nowait' deprecated\nPlease use wait=off instead"]


def test_machine_options_add_up_and_kvms_are_taken_as_qemu_takes_them_under_tcg() -> None:
    got = options("-machine", "smm=off,dump_guest_core=on", "-machine", "kernel_irqchip=split",
                  "-M", "pc,kernel-irqchip=none,kvm-shadow-mem=x")
    assert not got.machine.smm
    assert got.warnings == []
    assert options("-machine", "smm=off", "-machine", "smm=on").machine.smm


def test_an_isa_serial_device_is_one_more_serial_port() -> None:
    got = options("-nodefaults", "-chardev", "null,id=a", "-device", "isa-serial,chardev=a,index=1")
    assert got.serials == [None, "a"]


@pytest.mark.parametrize(("line", "expected"), [
    ("-bogus", ["-bogus: invalid option"]),
    ("---m", ["---m: invalid option"]),
    ("-singlestep", ["-singlestep: invalid option"]),
    ("-m", ["-m: requires an argument"]),
    ("-M bogus", ['unsupported machine type: "bogus"\n'
                  "Use -machine help to list supported machines"]),
    ("-M pc,foo", ["-M pc,foo: Expected '=' after parameter 'foo'"]),
    ("-M pc,foo=1", ["Property 'pc-i440fx-10.0-machine.foo' not found"]),
    ("-M pc,foo_bar=1", ["Property 'pc-i440fx-10.0-machine.foo-bar' not found"]),
    ("-m -1", ["-m -1: Value '-1' is out of range for parameter 'size'"]),
    ("-m 16,slots=x", ["-m 16,slots=x: Parameter 'slots' expects a number"]),
    ("-accel bogus", ["-accel bogus: invalid accelerator bogus"]),
    ("-accel tcg,one-insn-per-tb=maybe",
     ["-accel tcg,one-insn-per-tb=maybe: Parameter 'one-insn-per-tb' expects 'on' or 'off'"]),
    ("-accel tcg,x=1", ["-accel tcg,x=1: Property 'tcg-accel.x' not found"]),
    ("-icount 11", ["-icount 11: icount: Invalid shift value"]),
    ("-rtc clock=x", ["invalid option value 'x'"]),
    ("-action panic=run",
     ["-action panic=run: Parameter 'panic' does not accept value 'run'"]),
    ("-action panic", ["-action panic: warning: short-form boolean option 'panic' deprecated\n"
                       "Please use panic=on instead",
                       "-action panic: Parameter 'panic' does not accept value 'on'"]),
    ("-action foo=1", ["-action foo=1: Invalid parameter 'foo'"]),
    ("-chardev null", ["-chardev null: chardev: no id specified"]),
    ("-chardev x,id=a", ["-chardev x,id=a: 'x' is not a valid char driver name"]),
    ("-chardev null,id=a -chardev null,id=a",
     ["-chardev null,id=a: Duplicate ID 'a' for chardev"]),
    ("-chardev socket,id=a,path=x,wait=on",
     ["-chardev socket,id=a,path=x,wait=on: 'wait' option is incompatible with socket in client "
      "connect mode"]),
    ("-mon nope", ['-mon nope: chardev "nope" not found']),
    ("-chardev null,id=a -mon a -mon a", ["-mon a: chardev 'a' is already in use"]),
    ("-serial bogus", ["-serial bogus: 'bogus' is not a valid char driver",
                       "-serial bogus: could not connect serial device to character backend "
                       "'bogus'"]),
    ("-qmp bogus", ["-qmp bogus: 'bogus' is not a valid char driver",
                    "-qmp bogus: parse error: bogus"]),
    ("-monitor stdio -serial stdio",
     ["-serial stdio: cannot use stdio by multiple character devices",
      "-serial stdio: could not connect serial device to character backend 'stdio'"]),
    ("-device bogus", ["-device bogus: 'bogus' is not a valid device model name"]),
    ("-device pvpanic,x=1", ["-device pvpanic,x=1: Property 'pvpanic.x' not found"]),
    ("-device pvpanic,events=300",
     ["-device pvpanic,events=300: Parameter 'events' expects uint8_t"]),
    ("-device isa-debugcon,chardev=n",
     ["-device isa-debugcon,chardev=n: Property 'isa-debugcon.chardev' can't find value 'n'"]),
    ("-global PIIX4_PM.x=1",
     ["can't apply global PIIX4_PM.x=1: Property 'PIIX4_PM.x' not found"]),
    ("-uuid x", ["-uuid x: failed to parse UUID string: wrong format"])])
def test_a_mistake_is_told_in_qemus_words(line: str, expected: list[str]) -> None:
    assert mistake(line) == expected


def test_a_global_of_an_unknown_class_is_only_warned_of() -> None:
    assert options("-global", "bogus.x=1").warnings == [
        "warning: global bogus.x has invalid class name"]


def test_help_lists_every_option_of_the_table() -> None:
    text = help_text("snooze")
    for option in OPTIONS:
        for name in option.names:
            assert f"-{name}" in text
    assert options("-S", "-help", "-bogus").answer == "snooze emulator version 1.2.3\n" + text


def test_the_program_ends_with_1_and_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "monitor", "-bogus"], capture_output=True,
                          text=True, cwd=ROOT, check=False, timeout=20)
    name = Path(sys.executable).name
    assert (done.returncode, done.stdout, done.stderr) == \
        (1, "", f"{name}: -bogus: invalid option\n")


def test_help_into_a_closed_pipe_is_no_traceback() -> None:
    done = subprocess.run(f"{sys.executable} -m monitor -help | true", shell=True, cwd=ROOT,
                          capture_output=True, text=True, check=False, timeout=20)
    assert done.stderr == ""


def test_a_firmware_image_that_is_none_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "monitor", "-bios", "/etc/hostname"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT,
                          check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr.endswith("could not load PC BIOS '/etc/hostname'\n")
