"""The 8042 keyboard controller of a PC/AT, with a PS/2 keyboard and a PS/2 mouse.

Follows IBM's PS/2 Hardware Interface Technical Reference (keyboard controller, keyboard, mouse)
and, for the wheel, Microsoft's IntelliMouse protocol.

====  ==========================================================================
port  access
====  ==========================================================================
60    read: the output buffer; write: a byte for the keyboard, or what the
      command before asked for
64    read: status; write: a command for the controller
====  ==========================================================================

Status         0 output buffer full, 2 system flag, 3 last write was a command,
               4 not locked, 5 the output buffer is the mouse's
Mode byte      0 keyboard interrupt, 1 mouse interrupt, 2 system flag, 4 keyboard
               off, 5 mouse off, 6 translate to scan code set 1
Output port    0 low resets the machine, 1 A20, 4 and 5 output buffer full

Controller commands: 20/60 read/write mode, a7/a8 mouse off/on, a9 test mouse port, aa
self test (55), ab test keyboard port, ad/ae keyboard off/on, c0 read input port, d0/d1
read/write output port, d2/d3 put a byte into the output buffer as the keyboard's/mouse's, d4 write
to the mouse, dd/df A20 off/on, f0-ff pulse the output port's low bits that are 0 (bit 0:
reset).

The controller's own answers come first, keyboard and mouse take turns.  All answers come at
once.  Keys come in as QEMU's key names (QKeyCode); the codes they make are QEMU's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from machine.wiring import Line, Notify

__all__ = ["I8042", "KEYS", "State"]

_log = logging.getLogger("snooze.guest")

STAT_OBF, STAT_SYSTEM, STAT_COMMAND, STAT_UNLOCKED, STAT_MOUSE_OBF = 0x01, 0x04, 0x08, 0x10, 0x20
MODE_KBD_INT, MODE_MOUSE_INT, MODE_KBD_OFF, MODE_MOUSE_OFF, MODE_TRANSLATE = (
    0x01, 0x02, 0x10, 0x20, 0x40)
OUT_RESET, OUT_A20, OUT_OBF, OUT_MOUSE_OBF = 0x01, 0x02, 0x10, 0x20
OUT_INITIAL = 0xCF
INPUT_PORT = 0x80                   # not locked

# controller commands
READ_MODE, WRITE_MODE = 0x20, 0x60
MOUSE_OFF, MOUSE_ON, TEST_MOUSE, SELF_TEST, TEST_KBD, KBD_OFF, KBD_ON = (
    0xA7, 0xA8, 0xA9, 0xAA, 0xAB, 0xAD, 0xAE)
READ_INPUT, READ_OUTPUT, WRITE_OUTPUT = 0xC0, 0xD0, 0xD1
WRITE_KBD_BUFFER, WRITE_MOUSE_BUFFER, WRITE_MOUSE = 0xD2, 0xD3, 0xD4
A20_OFF, A20_ON, PULSE = 0xDD, 0xDF, 0xF0
_WITH_DATA = frozenset((WRITE_MODE, WRITE_OUTPUT, WRITE_KBD_BUFFER, WRITE_MOUSE_BUFFER,
                        WRITE_MOUSE))
SELF_TEST_PASSED = 0x55

# answers of keyboard and mouse
ACK, RESEND, ECHO, SELF_TEST_OK = 0xFA, 0xFE, 0xEE, 0xAA

# keyboard commands
K_SET_LEDS, K_ECHO, K_SCAN_SET, K_IDENTIFY, K_RATE = 0xED, 0xEE, 0xF0, 0xF2, 0xF3
K_ENABLE, K_RESET_OFF, K_RESET_ON, K_ALL_TYPEMATIC, K_KEY_MAKE_BREAK, K_RESET = (
    0xF4, 0xF5, 0xF6, 0xFA, 0xFC, 0xFF)
_K_WITH_DATA = frozenset((K_SET_LEDS, K_SCAN_SET, K_RATE, K_KEY_MAKE_BREAK))
KEYBOARD_ID = (0xAB, 0x83)
KEYBOARD_ID_TRANSLATED = (0xAB, 0x41)
RELEASE = 0xF0
#: what a query for the set tells, when the controller translates it
_SET_TRANSLATED = {1: 0x43, 2: 0x41, 3: 0x3F}

# mouse commands
M_SCALE_1, M_SCALE_2, M_RESOLUTION, M_STATUS, M_STREAM, M_POLL, M_UNWRAP, M_WRAP = (
    0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xEB, 0xEC, 0xEE)
M_REMOTE, M_IDENTIFY, M_RATE, M_ENABLE, M_DISABLE, M_DEFAULTS, M_RESET = (
    0xF0, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xFF)
MOUSE_SCALED, MOUSE_ENABLED, MOUSE_REMOTE = 0x10, 0x20, 0x40
TYPE_PS2, TYPE_WHEEL, TYPE_FIVE_BUTTONS = 0, 3, 4
#: three sample rates in a row that turn the mouse into another type
_KNOCKS = {(200, 100, 80): TYPE_WHEEL, (200, 200, 80): TYPE_FIVE_BUTTONS}

#: mouse command -> status bits that it clears, that it sets
_MOUSE_STATUS_COMMANDS = {
    M_SCALE_1: (MOUSE_SCALED, 0), M_SCALE_2: (0, MOUSE_SCALED),
    M_STREAM: (MOUSE_REMOTE, 0), M_REMOTE: (0, MOUSE_REMOTE),
    M_ENABLE: (0, MOUSE_ENABLED), M_DISABLE: (MOUSE_ENABLED, 0),
}

#: what comes is dropped when this many bytes wait
QUEUE_SIZE = 16

# where the byte in the output buffer comes from
_NOWHERE, _CONTROLLER, _KEYBOARD, _MOUSE = range(4)
_NONE = -1

#: scan code set 2 to set 1: the first 128 codes; above, all but these two stay
_TO_SET_1 = bytes.fromhex(
    "ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59 "
    "65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b "
    "67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d "
    "69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f "
    "6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61 "
    "6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76 "
    "55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f "
    "52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54 "
) + bytes(range(0x80, 0x100)).replace(b"\x83", b"\x41").replace(b"\x84", b"\x54")

#: key name -> make codes in sets 1, 2, 3; 0 where the set has none.  The break code
#: of set 1 is the last byte with bit 7, of sets 2 and 3 it has 0xf0 before its last byte.
_CODES: dict[str, tuple[int, int, int]] = {
    "shift": (0x2A, 0x12, 0x12),                  "shift_r": (0x36, 0x59, 0x59),
    "alt": (0x38, 0x11, 0x19),                    "alt_r": (0xE038, 0xE011, 0x39),
    "ctrl": (0x1D, 0x14, 0x11),                   "ctrl_r": (0xE01D, 0xE014, 0x58),
    "menu": (0xE01E, 0x00, 0x91),                 "esc": (0x01, 0x76, 0x08),
    "1": (0x02, 0x16, 0x16),                      "2": (0x03, 0x1E, 0x1E),
    "3": (0x04, 0x26, 0x26),                      "4": (0x05, 0x25, 0x25),
    "5": (0x06, 0x2E, 0x2E),                      "6": (0x07, 0x36, 0x36),
    "7": (0x08, 0x3D, 0x3D),                      "8": (0x09, 0x3E, 0x3E),
    "9": (0x0A, 0x46, 0x46),                      "0": (0x0B, 0x45, 0x45),
    "minus": (0x0C, 0x4E, 0x4E),                  "equal": (0x0D, 0x55, 0x55),
    "backspace": (0x0E, 0x66, 0x66),              "tab": (0x0F, 0x0D, 0x0D),
    "q": (0x10, 0x15, 0x15),                      "w": (0x11, 0x1D, 0x1D),
    "e": (0x12, 0x24, 0x24),                      "r": (0x13, 0x2D, 0x2D),
    "t": (0x14, 0x2C, 0x2C),                      "y": (0x15, 0x35, 0x35),
    "u": (0x16, 0x3C, 0x3C),                      "i": (0x17, 0x43, 0x43),
    "o": (0x18, 0x44, 0x44),                      "p": (0x19, 0x4D, 0x4D),
    "bracket_left": (0x1A, 0x54, 0x54),           "bracket_right": (0x1B, 0x5B, 0x5B),
    "ret": (0x1C, 0x5A, 0x5A),                    "a": (0x1E, 0x1C, 0x1C),
    "s": (0x1F, 0x1B, 0x1B),                      "d": (0x20, 0x23, 0x23),
    "f": (0x21, 0x2B, 0x2B),                      "g": (0x22, 0x34, 0x34),
    "h": (0x23, 0x33, 0x33),                      "j": (0x24, 0x3B, 0x3B),
    "k": (0x25, 0x42, 0x42),                      "l": (0x26, 0x4B, 0x4B),
    "semicolon": (0x27, 0x4C, 0x4C),              "apostrophe": (0x28, 0x52, 0x52),
    "grave_accent": (0x29, 0x0E, 0x0E),           "backslash": (0x2B, 0x5D, 0x5C),
    "z": (0x2C, 0x1A, 0x1A),                      "x": (0x2D, 0x22, 0x22),
    "c": (0x2E, 0x21, 0x21),                      "v": (0x2F, 0x2A, 0x2A),
    "b": (0x30, 0x32, 0x32),                      "n": (0x31, 0x31, 0x31),
    "m": (0x32, 0x3A, 0x3A),                      "comma": (0x33, 0x41, 0x41),
    "dot": (0x34, 0x49, 0x49),                    "slash": (0x35, 0x4A, 0x4A),
    "asterisk": (0x37, 0x7C, 0x7E),               "spc": (0x39, 0x29, 0x29),
    "caps_lock": (0x3A, 0x58, 0x14),              "f1": (0x3B, 0x05, 0x07),
    "f2": (0x3C, 0x06, 0x0F),                     "f3": (0x3D, 0x04, 0x17),
    "f4": (0x3E, 0x0C, 0x1F),                     "f5": (0x3F, 0x03, 0x27),
    "f6": (0x40, 0x0B, 0x2F),                     "f7": (0x41, 0x83, 0x37),
    "f8": (0x42, 0x0A, 0x3F),                     "f9": (0x43, 0x01, 0x47),
    "f10": (0x44, 0x09, 0x4F),                    "num_lock": (0x45, 0x77, 0x76),
    "scroll_lock": (0x46, 0x7E, 0x5F),            "kp_divide": (0xE035, 0xE04A, 0x4A),
    "kp_multiply": (0x37, 0x7C, 0x7E),            "kp_subtract": (0x4A, 0x7B, 0x4E),
    "kp_add": (0x4E, 0x79, 0x7C),                 "kp_enter": (0xE01C, 0xE05A, 0x79),
    "kp_decimal": (0x53, 0x71, 0x71),             "kp_0": (0x52, 0x70, 0x70),
    "kp_1": (0x4F, 0x69, 0x69),                   "kp_2": (0x50, 0x72, 0x72),
    "kp_3": (0x51, 0x7A, 0x7A),                   "kp_4": (0x4B, 0x6B, 0x6B),
    "kp_5": (0x4C, 0x73, 0x73),                   "kp_6": (0x4D, 0x74, 0x74),
    "kp_7": (0x47, 0x6C, 0x6C),                   "kp_8": (0x48, 0x75, 0x75),
    "kp_9": (0x49, 0x7D, 0x7D),                   "less": (0x56, 0x61, 0x13),
    "f11": (0x57, 0x78, 0x56),                    "f12": (0x58, 0x07, 0x5E),
    "home": (0xE047, 0xE06C, 0x6E),               "pgup": (0xE049, 0xE07D, 0x6F),
    "pgdn": (0xE051, 0xE07A, 0x6D),               "end": (0xE04F, 0xE069, 0x65),
    "left": (0xE04B, 0xE06B, 0x61),               "up": (0xE048, 0xE075, 0x63),
    "down": (0xE050, 0xE072, 0x60),               "right": (0xE04D, 0xE074, 0x6A),
    "insert": (0xE052, 0xE070, 0x67),             "delete": (0xE053, 0xE071, 0x64),
    "stop": (0xE068, 0xE028, 0x0A),               "again": (0xE005, 0x00, 0x0B),
    "props": (0xE006, 0x00, 0x0C),                "undo": (0xE007, 0x00, 0x10),
    "front": (0xE00C, 0x00, 0x00),                "copy": (0xE078, 0x00, 0x18),
    "open": (0x64, 0x00, 0x20),                   "paste": (0x65, 0x00, 0x28),
    "find": (0xE041, 0x00, 0x30),                 "cut": (0xE03C, 0x00, 0x38),
    "lf": (0x5B, 0x00, 0x00),                     "help": (0xE075, 0x00, 0x09),
    "meta_l": (0xE05B, 0xE01F, 0x8B),             "meta_r": (0xE05C, 0xE027, 0x8C),
    "compose": (0xE05D, 0xE02F, 0x8D),            "ro": (0x73, 0x51, 0x00),
    "hiragana": (0x77, 0x62, 0x87),               "henkan": (0x79, 0x64, 0x86),
    "yen": (0x7D, 0x6A, 0x5D),                    "muhenkan": (0x7B, 0x67, 0x85),
    "katakanahiragana": (0x70, 0x13, 0x87),       "kp_comma": (0x7E, 0x6D, 0x00),
    "kp_equals": (0x59, 0x0F, 0x00),              "power": (0xE05E, 0xE037, 0x00),
    "sleep": (0xE05F, 0xE03F, 0x00),              "wake": (0xE063, 0xE05E, 0x00),
    "audionext": (0xE019, 0xE04D, 0x93),          "audioprev": (0xE010, 0xE015, 0x94),
    "audiostop": (0xE024, 0xE03B, 0x98),          "audioplay": (0xE022, 0xE034, 0x00),
    "audiomute": (0xE020, 0xE023, 0x9C),          "volumeup": (0xE030, 0xE032, 0x95),
    "volumedown": (0xE02E, 0xE021, 0x9D),         "mediaselect": (0xE06D, 0xE050, 0x00),
    "mail": (0xE06C, 0xE048, 0x00),               "calculator": (0xE021, 0xE02B, 0xA3),
    "computer": (0xE06B, 0xE040, 0x00),           "ac_home": (0xE032, 0xE03A, 0x97),
    "ac_back": (0xE06A, 0xE038, 0x00),            "ac_forward": (0xE069, 0xE030, 0x00),
    "ac_refresh": (0xE067, 0xE020, 0x00),         "ac_bookmarks": (0xE066, 0xE018, 0x00),
    "lang1": (0x72, 0x00, 0x00),                  "lang2": (0x71, 0x00, 0x00),
    "f13": (0x5D, 0x2F, 0x7F),                    "f14": (0x5E, 0x37, 0x80),
    "f15": (0x5F, 0x3F, 0x81),                    "f16": (0x55, 0x00, 0x82),
    "f17": (0xE003, 0x00, 0x83),                  "f18": (0xE077, 0x00, 0x00),
    "f19": (0xE004, 0x00, 0x00),                  "f20": (0x5A, 0x00, 0x00),
    "f21": (0x74, 0x00, 0x00),                    "f22": (0xE079, 0x00, 0x00),
    "f23": (0x6D, 0x00, 0x00),                    "f24": (0x6F, 0x00, 0x00),
}

#: keys that send nothing when released
_NO_BREAK = frozenset(("lang1", "lang2"))

_SHIFTS, _CONTROLS = frozenset(("shift", "shift_r")), frozenset(("ctrl", "ctrl_r"))
_MODIFIERS = ("shift", "shift_r", "ctrl", "ctrl_r", "alt", "alt_r")

# The keys whose codes depend on what else is held: (make, break) in sets 1 and 2.
_PRINT_SCREEN = ((bytes.fromhex("e02ae037"), bytes.fromhex("e0b7e0aa")),
                 (bytes.fromhex("e012e07c"), bytes.fromhex("e0f07ce0f012")))
_PRINT_SCREEN_SHIFTED = ((bytes.fromhex("e037"), bytes.fromhex("e0b7")),
                         (bytes.fromhex("e07c"), bytes.fromhex("e0f07c")))
_SYSRQ_ALT = ((bytes.fromhex("b83854"), bytes.fromhex("d4b838")),
              (bytes.fromhex("f0111184"), bytes.fromhex("f084f01111")))
_SYSRQ_ALT_R = ((bytes.fromhex("e0b8e03854"), bytes.fromhex("d4e0b8e038")),
                (bytes.fromhex("e0f011e01184"), bytes.fromhex("f084e0f011e011")))
_PAUSE = ((bytes.fromhex("e11d45e19dc5"), b""), (bytes.fromhex("e11477e1f014f077"), b""))
_BREAK = ((bytes.fromhex("e046e0c6"), b""), (bytes.fromhex("e07ee0f07e"), b""))
_SET_3_SPECIAL = {"print": 0x57, "sysrq": 0x57, "pause": 0x62}

#: every key name that `I8042.key` knows
KEYS = frozenset(_CODES) | frozenset(_SET_3_SPECIAL)


@dataclass
class State:
    """Controller, keyboard and mouse."""

    mode: int = MODE_KBD_INT | MODE_MOUSE_INT
    status: int = STAT_COMMAND | STAT_UNLOCKED
    outport: int = OUT_INITIAL
    #: the command whose data byte is awaited, 0 for none
    command: int = 0
    #: the controller's own answer, and which source it stands for (0 when there is none)
    answer: int = 0
    answer_as: int = _NOWHERE
    #: the source of what is in the output buffer, and what was read from it last
    source: int = _NOWHERE
    data: int = 0
    #: levels of the interrupt lines
    keyboard_irq: int = 0
    mouse_irq: int = 0

    #: answers to commands go before keys
    keyboard_answers: list[int] = field(default_factory=list)
    keyboard_queue: list[int] = field(default_factory=list)
    keyboard_command: int = _NONE
    scanning: int = 1
    scancode_set: int = 2
    leds: int = 0
    #: bits in the order of `_MODIFIERS`
    modifiers: int = 0

    mouse_answers: list[int] = field(default_factory=list)
    mouse_queue: list[int] = field(default_factory=list)
    mouse_command: int = _NONE
    mouse_status: int = 0
    #: 0 until the first reset or defaults command
    mouse_resolution: int = 0
    mouse_rate: int = 0
    #: the last three sample rates
    mouse_knocks: list[int] = field(default_factory=lambda: [0, 0, 0])
    mouse_type: int = TYPE_PS2
    mouse_wrap: int = 0
    #: movement that was not sent yet, and the buttons: 0 left, 1 right, 2 middle, 3, 4
    mouse_dx: int = 0
    mouse_dy: int = 0
    mouse_dz: int = 0
    mouse_buttons: int = 0


class I8042:
    """The controller and what is plugged into it.

    *reset* asks for the machine's reset, *set_a20* drives the gate of address line 20.
    The controller, as QEMU's, answers at once.
    """

    def __init__(self, *, keyboard_irq: Line, mouse_irq: Line, reset: Notify,
                 set_a20: Callable[[bool], None]) -> None:
        self.state = State()
        self._keyboard_irq = keyboard_irq
        self._mouse_irq = mouse_irq
        self._reset_machine = reset
        self._set_a20 = set_a20

    def reset(self) -> None:
        """Power-on: both devices on, untranslated, nothing waits, A20 open."""
        before = self.state
        self.state = State(keyboard_irq=before.keyboard_irq, mouse_irq=before.mouse_irq)
        self._drive()
        self._set_a20(True)

    # -- the people's side ---------------------------------------------------------

    @staticmethod
    def is_key(qcode: str) -> bool:
        """Whether *qcode* is the name of a key."""
        return qcode in KEYS

    def key(self, qcode: str, down: bool) -> None:
        """Press or release a key.

        *qcode* is a QKeyCode name; `ValueError` when there is no such key.  Codes that the
        keyboard's buffer has no room for are lost, as they are with a real one.
        """
        if qcode not in KEYS:
            raise ValueError(f"no key named {qcode!r}: a QKeyCode name such as 'ret' is required")
        s = self.state
        if not s.scanning:
            return
        if qcode in _MODIFIERS:
            bit = 1 << _MODIFIERS.index(qcode)
            s.modifiers = s.modifiers | bit if down else s.modifiers & ~bit
        codes = self._codes(qcode, down)
        if s.mode & MODE_TRANSLATE:
            codes = _translated(codes)
        waiting = len(s.keyboard_queue) + len(s.keyboard_answers)
        s.keyboard_queue.extend(codes[:max(QUEUE_SIZE - waiting, 0)])
        self._offer()

    def mouse(self, dx: int, dy: int, dz: int = 0, buttons: int = 0) -> None:
        """Move the mouse and hold *buttons* (bit 0 left, 1 right, 2 middle, 3 and 4 side).

        *dx* and *dy* count to the right and down, *dz* towards the user.
        """
        s = self.state
        if not s.mouse_status & MOUSE_ENABLED:
            return
        changed = buttons != s.mouse_buttons
        s.mouse_buttons = buttons
        s.mouse_dx += dx
        s.mouse_dy -= dy
        s.mouse_dz += dz
        if s.mouse_status & MOUSE_REMOTE:
            return
        while ((changed or s.mouse_dx or s.mouse_dy or s.mouse_dz)
               and len(s.mouse_queue) <= QUEUE_SIZE - 4):
            s.mouse_queue.extend(self._packet())
            changed = False
            if s.mouse_type == TYPE_PS2:
                s.mouse_dz = 0
        self._offer()

    # -- the ports -----------------------------------------------------------------

    def data_read(self, offset: int, size: int) -> int:
        """IN from 0x60."""
        s = self.state
        if s.status & STAT_OBF:
            s.status &= ~(STAT_OBF | STAT_MOUSE_OBF)
            s.outport &= ~(OUT_OBF | OUT_MOUSE_OBF)
            self._drive()
            if s.source == _CONTROLLER:
                s.data = s.answer
                s.answer_as = _NOWHERE
            else:
                queues = ((s.keyboard_answers, s.keyboard_queue) if s.source == _KEYBOARD
                          else (s.mouse_answers, s.mouse_queue))
                for queue in queues:
                    if queue:
                        s.data = queue.pop(0)
                        break
            self._fill(s.source)
        return s.data

    def data_write(self, offset: int, value: int, size: int) -> None:
        """OUT to 0x60."""
        s = self.state
        command, s.command = s.command, 0
        if command == 0:
            self._keyboard_write(value)
            # talking to the keyboard switches it on again
            s.mode &= ~MODE_KBD_OFF
            self._offer()
        elif command == WRITE_MODE:
            s.mode = value
            self._drive()
            self._offer()
        elif command == WRITE_OUTPUT:
            s.outport = value
            self._set_a20(bool(value & OUT_A20))
            if not value & OUT_RESET:
                self._reset_machine()
        elif command == WRITE_KBD_BUFFER:
            self._answer(value)
        elif command == WRITE_MOUSE_BUFFER:
            self._answer(value, _MOUSE)
        else:
            self._mouse_write(value)
            s.mode &= ~MODE_MOUSE_OFF
            self._offer()

    def command_read(self, offset: int, size: int) -> int:
        """IN from 0x64."""
        return self.state.status

    def command_write(self, offset: int, value: int, size: int) -> None:
        """OUT to 0x64."""
        s = self.state
        if value in _WITH_DATA:
            s.command = value
        elif value >= PULSE:
            if not value & OUT_RESET:
                self._reset_machine()
        elif value == READ_MODE:
            self._answer(s.mode)
        elif value == SELF_TEST:
            s.status |= STAT_SYSTEM
            self._answer(SELF_TEST_PASSED)
        elif value in (TEST_KBD, TEST_MOUSE):
            self._answer(0)
        elif value == READ_INPUT:
            self._answer(INPUT_PORT)
        elif value == READ_OUTPUT:
            self._answer(s.outport)
        elif value in (KBD_OFF, MOUSE_OFF):
            s.mode |= MODE_KBD_OFF if value == KBD_OFF else MODE_MOUSE_OFF
        elif value in (KBD_ON, MOUSE_ON):
            s.mode &= ~(MODE_KBD_OFF if value == KBD_ON else MODE_MOUSE_OFF)
            self._offer()
        elif value in (A20_OFF, A20_ON):
            s.outport = (s.outport & ~OUT_A20) | (OUT_A20 if value == A20_ON else 0)
            self._set_a20(value == A20_ON)
        else:
            _log.warning("i8042: unknown command 0x%02x", value)

    # -- the output buffer -----------------------------------------------------------

    def _answer(self, value: int, source: int = _KEYBOARD) -> None:
        """Give a byte from the controller itself, which stands for *source*'s."""
        s = self.state
        s.answer = value
        s.answer_as = source
        self._offer()

    def _offer(self) -> None:
        """Fill the output buffer when it is empty."""
        if not self.state.status & STAT_OBF:
            self._fill()

    def _fill(self, served: int = _NOWHERE) -> None:
        """Let a source that has something put it into the empty output buffer.

        Keyboard and mouse take turns: the one that was *served* last comes last.
        """
        s = self.state
        keyboard = (s.keyboard_answers or s.keyboard_queue) and not s.mode & MODE_KBD_OFF
        mouse = (s.mouse_answers or s.mouse_queue) and not s.mode & MODE_MOUSE_OFF
        if s.answer_as:
            s.source = _CONTROLLER
        elif keyboard and not (mouse and served == _KEYBOARD):
            s.source = _KEYBOARD
        elif mouse:
            s.source = _MOUSE
        else:
            s.source = _NOWHERE
        if s.source:
            s.status |= STAT_OBF
            s.outport |= OUT_OBF
            if s.source == _MOUSE or s.source == _CONTROLLER and s.answer_as == _MOUSE:
                s.status |= STAT_MOUSE_OBF
                s.outport |= OUT_MOUSE_OBF
        self._drive()

    def _drive(self) -> None:
        s = self.state
        keyboard = mouse = 0
        if s.status & STAT_OBF:
            if s.status & STAT_MOUSE_OBF:
                mouse = int(bool(s.mode & MODE_MOUSE_INT))
            else:
                keyboard = int(s.mode & (MODE_KBD_INT | MODE_KBD_OFF) == MODE_KBD_INT)
        if keyboard != s.keyboard_irq:
            s.keyboard_irq = keyboard
            self._keyboard_irq(bool(keyboard))
        if mouse != s.mouse_irq:
            s.mouse_irq = mouse
            self._mouse_irq(bool(mouse))

    # -- the keyboard ----------------------------------------------------------------

    def _keyboard_write(self, value: int) -> None:
        s = self.state
        command, s.keyboard_command = s.keyboard_command, _NONE
        answers = s.keyboard_answers
        answers.clear()
        translated = bool(s.mode & MODE_TRANSLATE)
        if command == K_SCAN_SET:
            if value == 0:
                answers += (ACK, _SET_TRANSLATED[s.scancode_set] if translated
                            else s.scancode_set)
            elif value <= 3:
                s.scancode_set = value
                answers.append(ACK)
            else:
                answers.append(RESEND)
        elif command != _NONE:
            if command == K_SET_LEDS:
                s.leds = value
            answers.append(ACK)
        elif value in _K_WITH_DATA:
            s.keyboard_command = value
            answers.append(ACK)
        elif value == K_ECHO:
            answers.append(ECHO)
        elif value == K_IDENTIFY:
            answers += (ACK, *(KEYBOARD_ID_TRANSLATED if translated else KEYBOARD_ID))
        elif value in (K_RESET_OFF, K_RESET_ON, K_RESET):
            s.keyboard_queue.clear()
            s.scancode_set, s.leds = 2, 0
            s.scanning = int(value != K_RESET_OFF)
            answers.append(ACK)
            if value == K_RESET:
                answers.append(SELF_TEST_OK)
        elif value in (0x00, K_ALL_TYPEMATIC):
            answers.append(ACK)
        elif value == K_ENABLE:
            s.scanning = 1
            answers.append(ACK)
        else:
            answers.append(RESEND)

    def _held(self, keys: frozenset[str]) -> bool:
        return any(self.state.modifiers >> bit & 1
                   for bit, name in enumerate(_MODIFIERS) if name in keys)

    def _codes(self, qcode: str, down: bool) -> bytes:
        """What the keyboard sends, in its present scan code set."""
        which = self.state.scancode_set
        if which == 3:
            code = _SET_3_SPECIAL.get(qcode) or _CODES[qcode][2]
            if not code:
                return b""
            return bytes((code,)) if down else bytes((RELEASE, code))
        if qcode in _SET_3_SPECIAL:
            if qcode == "pause":
                table = _BREAK if self._held(_CONTROLS) else _PAUSE
            elif self._held(frozenset(("alt",))):
                table = _SYSRQ_ALT
            elif self._held(frozenset(("alt_r",))):
                table = _SYSRQ_ALT_R
            elif self._held(_SHIFTS | _CONTROLS):
                table = _PRINT_SCREEN_SHIFTED
            else:
                table = _PRINT_SCREEN
            return table[which - 1][0 if down else 1]
        code = _CODES[qcode][which - 1]
        if not code or not down and qcode in _NO_BREAK:
            return b""
        prefix, last = ((code >> 8,) if code > 0xFF else ()), code & 0xFF
        if down:
            return bytes((*prefix, last))
        return bytes((*prefix, last | 0x80) if which == 1 else (*prefix, RELEASE, last))

    # -- the mouse -------------------------------------------------------------------

    def _mouse_write(self, value: int) -> None:
        s = self.state
        answers = s.mouse_answers
        command, s.mouse_command = s.mouse_command, _NONE
        if command == M_RATE:
            s.mouse_rate = value
            s.mouse_knocks = [*s.mouse_knocks[1:], value]
            first, second, third = s.mouse_knocks
            s.mouse_type = _KNOCKS.get((first, second, third), s.mouse_type)
            answers.append(ACK)
        elif command == M_RESOLUTION:
            s.mouse_resolution = value
            answers.append(ACK)
        elif s.mouse_wrap and value not in (M_UNWRAP, M_RESET):
            answers.append(value)
        elif value in (M_RATE, M_RESOLUTION):
            s.mouse_command = value
            answers.append(ACK)
        elif value == M_STATUS:
            answers += (ACK, s.mouse_status, s.mouse_resolution, s.mouse_rate)
        elif value == M_POLL:
            answers += (ACK, *self._packet())
        elif value == M_IDENTIFY:
            answers += (ACK, s.mouse_type)
        elif value in (M_DEFAULTS, M_RESET):
            s.mouse_rate, s.mouse_resolution, s.mouse_status = 100, 2, 0
            answers.append(ACK)
            if value == M_RESET:
                s.mouse_queue.clear()
                s.mouse_type, s.mouse_wrap, s.mouse_knocks = TYPE_PS2, 0, [0, 0, 0]
                answers += (SELF_TEST_OK, TYPE_PS2)
        elif value in (M_WRAP, M_UNWRAP):
            if value == M_WRAP or s.mouse_wrap:
                answers.append(ACK)
            s.mouse_wrap = int(value == M_WRAP)
        elif value in _MOUSE_STATUS_COMMANDS:
            cleared, added = _MOUSE_STATUS_COMMANDS[value]
            s.mouse_status = s.mouse_status & ~cleared | added
            answers.append(ACK)
        else:
            _log.warning("i8042: unknown mouse command 0x%02x", value)
        del answers[QUEUE_SIZE:]

    def _packet(self) -> bytes:
        """One report of what moved; the rest of a long way stays for the next."""
        s = self.state
        dx, dy = max(-127, min(127, s.mouse_dx)), max(-127, min(127, s.mouse_dy))
        s.mouse_dx -= dx
        s.mouse_dy -= dy
        head = 0x08 | s.mouse_buttons & 7 | (dx < 0) << 4 | (dy < 0) << 5
        packet = [head, dx & 0xFF, dy & 0xFF]
        if s.mouse_type != TYPE_PS2:
            limit = 127 if s.mouse_type == TYPE_WHEEL else 7
            dz = max(-limit, min(limit, s.mouse_dz))
            s.mouse_dz -= dz
            packet.append(dz & 0xFF if s.mouse_type == TYPE_WHEEL
                          else dz & 0x0F | (s.mouse_buttons & 0x18) << 1)
        return bytes(packet)


def _translated(codes: bytes) -> bytes:
    """Scan codes of set 2 (whatever they were) as the controller turns them into set 1."""
    out = bytearray()
    release = 0
    for code in codes:
        if code == RELEASE:
            release = 0x80
        else:
            out.append(_TO_SET_1[code] | release)
            release = 0
    return bytes(out)
