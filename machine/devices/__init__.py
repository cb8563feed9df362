"""Devices, one file each.  A device never imports another: the board wires them."""
