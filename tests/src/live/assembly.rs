//! Writes short BPF programs instruction by instruction (RFC 9669), with labels for jumps.

use std::{collections::BTreeMap, os::fd::AsRawFd as _, os::fd::OwnedFd};

/// A register. R1 holds the context at the start, R0 the answer at the end; a call changes R0 to R5.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
}

/// `BPF_PSEUDO_MAP_VALUE` of `linux/bpf.h`: an address within a map's first value.
const MAP_VALUE: u64 = 2;

/// A program that is being written. Numbers are of 32 bits, and clear the upper half of a register.
#[derive(Default)]
pub(crate) struct Assembly {
    instructions: Vec<u64>,
    labels: BTreeMap<&'static str, usize>,
    jumps: Vec<(usize, &'static str)>,
}

impl Assembly {
    /// `to = number`.
    pub(crate) fn set(self, to: Register, number: u32) -> Self {
        self.push(0xb4, to, Register::R0, 0, number)
    }

    /// `to = from`, all 64 bits: also a pointer.
    pub(crate) fn copy(self, to: Register, from: Register) -> Self {
        self.push(0xbf, to, from, 0, 0)
    }

    /// `to += number`.
    pub(crate) fn add(self, to: Register, number: u32) -> Self {
        self.push(0x04, to, Register::R0, 0, number)
    }

    /// `to += from`.
    pub(crate) fn add_register(self, to: Register, from: Register) -> Self {
        self.push(0x0c, to, from, 0, 0)
    }

    /// `to &= number`.
    pub(crate) fn and(self, to: Register, number: u32) -> Self {
        self.push(0x54, to, Register::R0, 0, number)
    }

    /// `to ^= number`.
    pub(crate) fn xor(self, to: Register, number: u32) -> Self {
        self.push(0xa4, to, Register::R0, 0, number)
    }

    /// `to <<= bits`.
    pub(crate) fn shift_left(self, to: Register, bits: u32) -> Self {
        self.push(0x64, to, Register::R0, 0, bits)
    }

    /// `to >>= bits`.
    pub(crate) fn shift_right(self, to: Register, bits: u32) -> Self {
        self.push(0x74, to, Register::R0, 0, bits)
    }

    /// Moves a pointer.
    pub(crate) fn advance(self, pointer: Register, bytes: u32) -> Self {
        self.push(0x07, pointer, Register::R0, 0, bytes)
    }

    /// Moves a pointer by a register.
    pub(crate) fn advance_by(self, pointer: Register, bytes: Register) -> Self {
        self.push(0x0f, pointer, bytes, 0, 0)
    }

    /// The lowest `bits` (16 or 32) in network byte order.
    pub(crate) fn network_order(self, register: Register, bits: u32) -> Self {
        self.push(0xdc, register, Register::R0, 0, bits)
    }

    /// Reads this number of bytes.
    pub(crate) fn load(self, bytes: usize, to: Register, from: Register, offset: i16) -> Self {
        self.push(0x61 | size(bytes), to, from, offset, 0)
    }

    /// Writes this number of bytes.
    pub(crate) fn store(self, bytes: usize, to: Register, offset: i16, from: Register) -> Self {
        self.push(0x63 | size(bytes), to, from, offset, 0)
    }

    /// `to` = the address of the map's first value.
    pub(crate) fn map_value(mut self, to: Register, map: &OwnedFd) -> Self {
        let descriptor = u32::try_from(map.as_raw_fd()).expect("a descriptor");
        self.instructions
            .push(0x18 | (to as u64) << 8 | MAP_VALUE << 12 | u64::from(descriptor) << 32);
        self.instructions.push(0);
        self
    }

    /// Goes on at the label unless the register has this number.
    pub(crate) fn unless(self, register: Register, number: u32, label: &'static str) -> Self {
        self.jump(0x56, (register, Register::R0), number, label)
    }

    /// Goes on at the label if a pointer is above another.
    pub(crate) fn if_above(self, pointer: Register, end: Register, label: &'static str) -> Self {
        self.jump(0x2d, (pointer, end), 0, label)
    }

    /// Goes on at the label.
    pub(crate) fn go(self, label: &'static str) -> Self {
        self.jump(0x05, (Register::R0, Register::R0), 0, label)
    }

    /// The next instruction has this name.
    pub(crate) fn label(mut self, name: &'static str) -> Self {
        self.labels.insert(name, self.instructions.len());
        self
    }

    /// Calls a helper function of the kernel (`enum bpf_func_id`).
    pub(crate) fn call(self, function: u32) -> Self {
        self.push(0x85, Register::R0, Register::R0, 0, function)
    }

    /// Ends the program.
    pub(crate) fn exit(self) -> Self {
        self.push(0x95, Register::R0, Register::R0, 0, 0)
    }

    /// The instructions, as bpf(2) takes them.
    pub(crate) fn finish(mut self) -> Vec<u64> {
        for (at, label) in &self.jumps {
            let to = self.labels.get(label).unwrap_or_else(|| panic!("no label {label}"));
            let offset = u64::try_from(to - at - 1).expect("forward");
            *self.instructions.get_mut(*at).expect("a jump") |= offset << 16;
        }
        self.instructions
    }

    fn jump(
        mut self,
        code: u64,
        (left, right): (Register, Register),
        number: u32,
        label: &'static str,
    ) -> Self {
        self.jumps.push((self.instructions.len(), label));
        self.push(code, left, right, 0, number)
    }

    fn push(mut self, code: u64, to: Register, from: Register, offset: i16, number: u32) -> Self {
        let offset = u64::from(offset.cast_unsigned());
        let registers = (to as u64) << 8 | (from as u64) << 12;
        self.instructions.push(code | registers | offset << 16 | u64::from(number) << 32);
        self
    }
}

/// The size in the code of a load or a store.
fn size(bytes: usize) -> u64 {
    match bytes {
        1 => 0x10,
        2 => 0x08,
        4 => 0x00,
        8 => 0x18,
        other => panic!("no access to {other} bytes"),
    }
}
