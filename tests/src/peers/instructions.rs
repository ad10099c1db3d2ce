//! The smallest programs, as BPF instructions (RFC 9669). They are the floor that any XDP program
//! stands on: a call, a drop, and the look at the headers that every filter needs.

/// `XDP_DROP` and `XDP_PASS` of `linux/bpf.h`.
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
/// Offsets in `struct xdp_md` of `linux/bpf.h`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
/// Ethertypes as a load from the frame gives them.
const IPV4: i32 = u16::from_ne_bytes([0x08, 0x00]) as i32;
const IPV6: i32 = u16::from_ne_bytes([0x86, 0xdd]) as i32;
const TCP: i32 = 6;
const EXIT: u64 = encode(0x95, 0, 0, 0, 0);

/// Passes every frame, and looks at none.
pub const PASS: &[u64] = &[set(0, XDP_PASS), EXIT];
/// Drops every frame, and looks at none.
pub const DROP: &[u64] = &[set(0, XDP_DROP), EXIT];
/// Reads Ethernet, IPv4 with options or IPv6 without extension headers, and the flags of TCP; drops
/// what has them, passes everything else.
pub const PARSE_AND_DROP: &[u64] = &[
    set(0, XDP_PASS),
    load(WORD, 2, 1, DATA),
    load(WORD, 3, 1, DATA_END),
    // The shortest frame: Ethernet (14), IPv4 (20), TCP (20).
    copy(4, 2),
    add(4, 54),
    jump_if_greater(4, 3, 21),
    load(HALF, 5, 2, 12),
    jump_if_equal(5, IPV4, 7),
    jump_unless_equal(5, IPV6, 18),
    // IPv6: 20 bytes longer. The last jumps lead to the drop or to the end.
    add(4, 20),
    jump_if_greater(4, 3, 16),
    load(BYTE, 5, 2, 20),
    jump_unless_equal(5, TCP, 14),
    load(BYTE, 5, 2, 67),
    jump(11),
    // IPv4: the header's length is in 4-byte words.
    load(BYTE, 5, 2, 14),
    and(5, 15),
    shift_left(5, 2),
    jump_if_less(5, 20, 8),
    load(BYTE, 6, 2, 23),
    jump_unless_equal(6, TCP, 6),
    add_register(2, 5),
    copy(4, 2),
    add(4, 34),
    jump_if_greater(4, 3, 2),
    load(BYTE, 5, 2, 27),
    set(0, XDP_DROP),
    EXIT,
];

/// Sizes of a load.
const WORD: u8 = 0x00;
const HALF: u8 = 0x08;
const BYTE: u8 = 0x10;

/// One instruction: opcode, destination and source register, offset, immediate.
const fn encode(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
}

const fn set(register: u8, value: i32) -> u64 {
    encode(0xb7, register, 0, 0, value)
}

const fn copy(to: u8, from: u8) -> u64 {
    encode(0xbf, to, from, 0, 0)
}

const fn load(size: u8, to: u8, from: u8, offset: i16) -> u64 {
    encode(0x61 | size, to, from, offset, 0)
}

const fn add(register: u8, value: i32) -> u64 {
    encode(0x07, register, 0, 0, value)
}

const fn add_register(to: u8, from: u8) -> u64 {
    encode(0x0f, to, from, 0, 0)
}

const fn and(register: u8, value: i32) -> u64 {
    encode(0x57, register, 0, 0, value)
}

const fn shift_left(register: u8, bits: i32) -> u64 {
    encode(0x67, register, 0, 0, bits)
}

const fn jump(over: i16) -> u64 {
    encode(0x05, 0, 0, over, 0)
}

const fn jump_if_equal(register: u8, value: i32, over: i16) -> u64 {
    encode(0x15, register, 0, over, value)
}

const fn jump_unless_equal(register: u8, value: i32, over: i16) -> u64 {
    encode(0x55, register, 0, over, value)
}

const fn jump_if_greater(left: u8, right: u8, over: i16) -> u64 {
    encode(0x2d, left, right, over, 0)
}

const fn jump_if_less(register: u8, value: i32, over: i16) -> u64 {
    encode(0xa5, register, 0, over, value)
}
