"""The names and the numbers of keys, as the monitors' commands spell them.

The names are QMP's `QKeyCode`.  The numbers are those of an AT keyboard's
scancode set 1 after the controller's translation, with bit 7 set where the set
has an 0xe0 prefix; `sendkey` takes them as hexadecimal.  A number that stands for
no key is `unmapped`: pressing it wakes the guest like any other, and types nothing.
"""

from __future__ import annotations

__all__ = ["NUMBERS", "QCODES", "UNMAPPED"]

UNMAPPED = "unmapped"

#: QKeyCode, in the order of its declaration.
QCODES: tuple[str, ...] = tuple(
    """
    unmapped shift shift_r alt alt_r ctrl ctrl_r menu esc 1 2 3 4 5 6 7 8 9 0 minus equal
    backspace tab q w e r t y u i o p bracket_left bracket_right ret a s d f g h j k l
    semicolon apostrophe grave_accent backslash z x c v b n m comma dot slash asterisk spc
    caps_lock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock scroll_lock kp_divide kp_multiply
    kp_subtract kp_add kp_enter kp_decimal sysrq kp_0 kp_1 kp_2 kp_3 kp_4 kp_5 kp_6 kp_7 kp_8
    kp_9 less f11 f12 print home pgup pgdn end left up down right insert delete stop again
    props undo front copy open paste find cut lf help meta_l meta_r compose pause ro hiragana
    henkan yen muhenkan katakanahiragana kp_comma kp_equals power sleep wake audionext
    audioprev audiostop audioplay audiomute volumeup volumedown mediaselect mail calculator
    computer ac_home ac_back ac_forward ac_refresh ac_bookmarks lang1 lang2 f13 f14 f15 f16 f17
    f18 f19 f20 f21 f22 f23 f24
    """.split()
)

#: Number of a key -> its name.
NUMBERS: dict[int, str] = {
    0x01: "esc", 0x02: "1", 0x03: "2", 0x04: "3", 0x05: "4", 0x06: "5", 0x07: "6", 0x08: "7",
    0x09: "8", 0x0a: "9", 0x0b: "0", 0x0c: "minus", 0x0d: "equal", 0x0e: "backspace",
    0x0f: "tab", 0x10: "q", 0x11: "w", 0x12: "e", 0x13: "r", 0x14: "t", 0x15: "y", 0x16: "u",
    0x17: "i", 0x18: "o", 0x19: "p", 0x1a: "bracket_left", 0x1b: "bracket_right", 0x1c: "ret",
    0x1d: "ctrl", 0x1e: "a", 0x1f: "s", 0x20: "d", 0x21: "f", 0x22: "g", 0x23: "h", 0x24: "j",
    0x25: "k", 0x26: "l", 0x27: "semicolon", 0x28: "apostrophe", 0x29: "grave_accent",
    0x2a: "shift", 0x2b: "backslash", 0x2c: "z", 0x2d: "x", 0x2e: "c", 0x2f: "v", 0x30: "b",
    0x31: "n", 0x32: "m", 0x33: "comma", 0x34: "dot", 0x35: "slash", 0x36: "shift_r",
    0x37: "kp_multiply", 0x38: "alt", 0x39: "spc", 0x3a: "caps_lock", 0x3b: "f1", 0x3c: "f2",
    0x3d: "f3", 0x3e: "f4", 0x3f: "f5", 0x40: "f6", 0x41: "f7", 0x42: "f8", 0x43: "f9",
    0x44: "f10", 0x45: "num_lock", 0x46: "scroll_lock", 0x47: "kp_7", 0x48: "kp_8",
    0x49: "kp_9", 0x4a: "kp_subtract", 0x4b: "kp_4", 0x4c: "kp_5", 0x4d: "kp_6",
    0x4e: "kp_add", 0x4f: "kp_1", 0x50: "kp_2", 0x51: "kp_3", 0x52: "kp_0", 0x53: "kp_decimal",
    0x54: "print", 0x55: "f16", 0x56: "less", 0x57: "f11", 0x58: "f12", 0x59: "kp_equals",
    0x5a: "f20", 0x5b: "lf", 0x5d: "f13", 0x5e: "f14", 0x5f: "f15", 0x64: "open",
    0x65: "paste", 0x6d: "f23", 0x6f: "f24", 0x70: "katakanahiragana", 0x71: "lang2",
    0x72: "lang1", 0x73: "ro", 0x74: "f21", 0x77: "hiragana", 0x79: "henkan", 0x7b: "muhenkan",
    0x7d: "yen", 0x7e: "kp_comma", 0x83: "f17", 0x84: "f19", 0x85: "again", 0x86: "props",
    0x87: "undo", 0x8c: "front", 0x90: "audioprev", 0x99: "audionext", 0x9c: "kp_enter",
    0x9d: "ctrl_r", 0x9e: "menu", 0xa0: "audiomute", 0xa1: "calculator", 0xa2: "audioplay",
    0xa4: "audiostop", 0xae: "volumedown", 0xb0: "volumeup", 0xb2: "ac_home",
    0xb5: "kp_divide", 0xb7: "print", 0xb8: "alt_r", 0xbc: "cut", 0xc1: "find", 0xc6: "pause",
    0xc7: "home", 0xc8: "up", 0xc9: "pgup", 0xcb: "left", 0xcd: "right", 0xcf: "end",
    0xd0: "down", 0xd1: "pgdn", 0xd2: "insert", 0xd3: "delete", 0xdb: "meta_l", 0xdc: "meta_r",
    0xdd: "compose", 0xde: "power", 0xdf: "sleep", 0xe3: "wake", 0xe6: "ac_bookmarks",
    0xe7: "ac_refresh", 0xe8: "stop", 0xe9: "ac_forward", 0xea: "ac_back", 0xeb: "computer",
    0xec: "mail", 0xed: "mediaselect", 0xf5: "help", 0xf7: "f18", 0xf8: "copy", 0xf9: "f22",
}
