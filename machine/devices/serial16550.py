"""The 16550A UART: a PC's serial port, with FIFOs and modem lines.

Follows National Semiconductor's PC16550D data sheet.

======  =======  ==========================================================
offset  access   register
======  =======  ==========================================================
0       r / w    RBR / THR; with LCR bit 7 the divisor's low byte
1       rw       IER; with LCR bit 7 the divisor's high byte
2       r / w    IIR / FCR
3       rw       LCR: word length, stop bits, parity, break, DLAB
4       rw       MCR: DTR, RTS, OUT1, OUT2, loopback
5       r        LSR: 0 data ready, 1 overrun, 4 break, 5 THR empty, 6 idle
6       r        MSR: 7-4 DCD RI DSR CTS; in loopback OUT2 OUT1 DTR RTS
7       rw       scratch
======  =======  ==========================================================

The line is as fast as the other side: a byte written to THR is handed on at once,
and LSR shows THR empty again when the OUT is done.  The divisor only times the
receive FIFO's timeout (four characters).  A carrier, a ready peer and a clear line
are always there (DCD, DSR, CTS), and do not change.

As in QEMU: setting the THRE interrupt's enable bit raises it again whenever THR is empty;
a byte that a loopback sends is received whatever else waits.  Other than QEMU, the
receiver takes nothing from outside while it is looped back: it says there is no room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from machine.clock import NS_PER_SECOND, Clock
from machine.wiring import Line, Notify

__all__ = ["Serial16550", "State"]

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7

IER_RDI, IER_THRI, IER_RLSI, IER_MSI = 0x01, 0x02, 0x04, 0x08

IIR_NONE, IIR_MSI, IIR_THRI, IIR_RDI, IIR_RLSI, IIR_TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
IIR_ID, IIR_FIFO = 0x0F, 0xC0

FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX = 0x01, 0x02, 0x04
FCR_KEPT = 0xC9

LCR_STOP, LCR_PARITY, LCR_DLAB = 0x04, 0x08, 0x80

MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
MCR_BITS = 0x1F

LSR_DR, LSR_OE, LSR_BI, LSR_THRE, LSR_TEMT = 0x01, 0x02, 0x10, 0x20, 0x40
LSR_ERRORS = 0x1E

MSR_DELTAS, MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x0F, 0x10, 0x20, 0x40, 0x80
MSR_PEER = MSR_DCD | MSR_DSR | MSR_CTS

#: what loopback shows in MSR for each MCR bit
_LOOPED = ((MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD))

FIFO_SIZE = 16
#: the receive FIFO's fill at which RDI comes, by FCR bits 7-6
TRIGGER_LEVELS = (1, 4, 8, 14)
TIMEOUT_CHARACTERS = 4
BAUD_BASE = 115_200
DIVISOR_9600 = 12
_NEVER = -1


@dataclass
class State:
    """The registers, and the receiver's bytes.

    The transmitter holds none: what is written is gone.
    """

    ier: int = 0
    iir: int = IIR_NONE
    fcr: int = 0
    lcr: int = 0
    mcr: int = MCR_OUT2
    lsr: int = LSR_THRE | LSR_TEMT
    msr: int = MSR_PEER
    scratch: int = 0
    divisor: int = DIVISOR_9600
    #: the last byte received, without FIFO
    rbr: int = 0
    #: received bytes, oldest first
    fifo: list[int] = field(default_factory=list)
    #: THR went empty and IIR has not told so yet
    thre_pending: int = 0
    #: bytes have waited in the FIFO for four characters' time
    timeout_pending: int = 0
    #: when that will be, ns of the clock, or -1
    timeout_at: int = _NEVER


class Serial16550:
    """One UART.

    *irq* is its interrupt line, *transmit* is called with each byte sent.  When `receive` took less
    than it was offered, `on_can_receive` is called as soon as there is room again.

    >>> from machine.wiring import no_line
    >>> uart = Serial16550(clock=Clock(), irq=no_line, transmit=print)
    >>> uart.write(THR, 0x41, 1)
    b'A'
    """

    def __init__(self, *, clock: Clock, irq: Line, transmit: Callable[[bytes], None]) -> None:
        self.state = State()
        self.on_can_receive: Notify | None = None
        self._clock = clock
        self._irq = irq
        self._transmit = transmit
        self._timer = clock.timer("serial16550-rx-timeout", self._timed_out)

    def reset(self) -> None:
        """Master reset: 9600 8N1 to look at, FIFOs off and empty, no interrupts."""
        asserted = not self.state.iir & IIR_NONE
        self.state = State()
        self._timer.cancel()
        if asserted:
            self._irq(False)
        self._room_made()

    def restored(self) -> None:
        """Arm the timer of a `state` that was put in place from outside."""
        if self.state.timeout_at == _NEVER:
            self._timer.cancel()
        else:
            self._timer.at(self.state.timeout_at)

    # -- the line's other end ----------------------------------------------------

    def can_receive(self) -> int:
        """How many bytes `receive` would take now."""
        s = self.state
        if s.mcr & MCR_LOOP:
            return 0
        if s.fcr & FCR_ENABLE:
            return FIFO_SIZE - len(s.fifo)
        return 0 if s.lsr & LSR_DR else 1

    def receive(self, data: bytes) -> int:
        """Let bytes come in; return how many of *data* there was room for."""
        taken = min(self.can_receive(), len(data))
        if taken:
            self._received(data[:taken])
        return taken

    def receive_break(self) -> None:
        """Let a break condition come in."""
        self.state.lsr |= LSR_BI
        self._received(b"\0")

    def _received(self, data: bytes) -> None:
        s = self.state
        if s.fcr & FCR_ENABLE:
            s.fifo.extend(data)
            if len(s.fifo) > FIFO_SIZE:
                # an overrun keeps what the FIFO holds
                del s.fifo[FIFO_SIZE:]
                s.lsr |= LSR_OE
            self._start_timeout()
        else:
            if s.lsr & LSR_DR:
                s.lsr |= LSR_OE
            s.rbr = data[-1]
        s.lsr |= LSR_DR
        self._update()

    def _room_made(self) -> None:
        if self.on_can_receive is not None and not self.state.mcr & MCR_LOOP:
            self.on_can_receive()

    # -- the receive FIFO's timeout ---------------------------------------------

    def _start_timeout(self) -> None:
        s = self.state
        bits = 1 + 5 + (s.lcr & 3) + (2 if s.lcr & LCR_STOP else 1) + bool(s.lcr & LCR_PARITY)
        ns = TIMEOUT_CHARACTERS * bits * max(s.divisor, 1) * NS_PER_SECOND // BAUD_BASE
        s.timeout_at = self._clock.now_ns() + ns
        self._timer.at(s.timeout_at)

    def _stop_timeout(self) -> None:
        self.state.timeout_at = _NEVER
        self.state.timeout_pending = 0
        self._timer.cancel()

    def _timed_out(self) -> None:
        s = self.state
        s.timeout_at = _NEVER
        if s.fifo:
            s.timeout_pending = 1
            self._update()

    # -- the interrupt -----------------------------------------------------------

    def _update(self) -> None:
        """Let IIR tell the most urgent enabled cause, and drive the line."""
        s = self.state
        ier = s.ier
        if ier & IER_RLSI and s.lsr & LSR_ERRORS:
            cause = IIR_RLSI
        elif ier & IER_RDI and s.timeout_pending:
            cause = IIR_TIMEOUT
        elif ier & IER_RDI and s.lsr & LSR_DR and (
                not s.fcr & FCR_ENABLE or len(s.fifo) >= TRIGGER_LEVELS[s.fcr >> 6]):
            cause = IIR_RDI
        elif ier & IER_THRI and s.thre_pending:
            cause = IIR_THRI
        elif ier & IER_MSI and s.msr & MSR_DELTAS:
            cause = IIR_MSI
        else:
            cause = IIR_NONE
        before = s.iir
        s.iir = cause | (IIR_FIFO if s.fcr & FCR_ENABLE else 0)
        if (before ^ cause) & IIR_NONE:
            self._irq(cause != IIR_NONE)

    # -- the registers -----------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """IN from the base + *offset*."""
        s = self.state
        if offset == LSR:
            lsr = s.lsr
            if lsr & (LSR_BI | LSR_OE):
                s.lsr = lsr & ~(LSR_BI | LSR_OE)
                self._update()
            return lsr
        if offset == RBR:
            return s.divisor & 0xFF if s.lcr & LCR_DLAB else self._read_data()
        if offset == IIR:
            iir = s.iir
            if iir & IIR_ID == IIR_THRI:
                s.thre_pending = 0
                self._update()
            return iir
        if offset == IER:
            return s.divisor >> 8 if s.lcr & LCR_DLAB else s.ier
        if offset == LCR:
            return s.lcr
        if offset == MCR:
            return s.mcr
        if offset == SCR:
            return s.scratch
        if s.mcr & MCR_LOOP:
            return sum(status for control, status in _LOOPED if s.mcr & control)
        msr = s.msr
        if msr & MSR_DELTAS:
            s.msr = msr & ~MSR_DELTAS
            self._update()
        return msr

    def _read_data(self) -> int:
        s = self.state
        if s.fcr & FCR_ENABLE:
            was_full = len(s.fifo) >= FIFO_SIZE
            byte = s.fifo.pop(0) if s.fifo else 0
            s.timeout_pending = 0
            if s.fifo:
                self._start_timeout()
            else:
                s.lsr &= ~(LSR_DR | LSR_BI)
                self._stop_timeout()
        else:
            was_full = bool(s.lsr & LSR_DR)
            byte = s.rbr
            s.lsr &= ~(LSR_DR | LSR_BI)
        self._update()
        if was_full:
            self._room_made()
        return byte

    def write(self, offset: int, value: int, size: int) -> None:
        """OUT to the base + *offset*."""
        s = self.state
        if offset == THR:
            if s.lcr & LCR_DLAB:
                s.divisor = s.divisor & 0xFF00 | value
            else:
                self._send(value)
        elif offset == IER:
            if s.lcr & LCR_DLAB:
                s.divisor = s.divisor & 0x00FF | value << 8
            else:
                self._enable_interrupts(value & 0x0F)
        elif offset == FCR:
            self._control_fifos(value)
        elif offset == LCR:
            s.lcr = value
        elif offset == MCR:
            was_looped = s.mcr & MCR_LOOP
            s.mcr = value & MCR_BITS
            if was_looped and not value & MCR_LOOP:
                self._room_made()
        elif offset == SCR:
            s.scratch = value

    def _send(self, value: int) -> None:
        s = self.state
        if s.ier & IER_THRI:
            # THR fills and drains: for a moment there is no cause, and then a new edge.
            s.thre_pending = 0
            self._update()
            s.thre_pending = 1
            self._update()
        else:
            s.thre_pending = 1
        if s.mcr & MCR_LOOP:
            self._received(bytes((value,)))
        else:
            self._transmit(bytes((value,)))

    def _enable_interrupts(self, ier: int) -> None:
        s = self.state
        changed = s.ier ^ ier
        s.ier = ier
        if changed & IER_THRI:
            # Not in the data sheet, but drivers start a transmission this way.
            s.thre_pending = int(bool(ier & IER_THRI))
        if changed:
            self._update()

    def _control_fifos(self, value: int) -> None:
        s = self.state
        if (value ^ s.fcr) & FCR_ENABLE:
            value |= FCR_CLEAR_RX | FCR_CLEAR_TX
        if value & FCR_CLEAR_RX:
            s.lsr &= ~(LSR_DR | LSR_BI)
            s.fifo.clear()
            self._stop_timeout()
        if value & FCR_CLEAR_TX:
            s.lsr |= LSR_THRE
            s.thre_pending = 1
        s.fcr = value & FCR_KEPT
        self._update()
        if value & FCR_CLEAR_RX:
            self._room_made()
