//! The boot clock as the kernel programs see it.
//!
//! Deadlines are compared by `bpf_ktime_get_boot_ns`, which knows no time namespaces.
//! `clock_gettime(CLOCK_BOOTTIME)` does: in a time namespace with an offset (containers,
//! `unshare --time --boottime`) the two differ by hours. So a program is asked: a few instructions,
//! run on a frame that no interface ever sees. `/proc/self/timens_offsets` would not do: it shows the
//! offsets of the children.

use std::{io, os::fd::OwnedFd};

use aya_obj::generated::bpf_insn;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{kernel::datapath::bpf, rules::clock::BootNanos, system::sys};

/// Instructions, registers and helpers of `linux/bpf.h`.
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const ADD_NUMBER: u8 = 0x07;
const STORE_U64: u8 = 0x7b;
const STACK: u8 = 10;
const STORE_BYTES: i32 = 9;
const BOOT_CLOCK: i32 = 125;
/// Shortest frame that a test run takes, and a little more.
const FRAME: usize = 64;
/// Two measurements differ by less than this, nanoseconds: each is as good as the time that a
/// reading takes.
const TOLERANCE: u64 = 10_000_000;
/// Readings, of which the closest one counts: this thread may have to wait in between.
const READINGS: u32 = 5;

/// The loaded program. It is loaded once: each load is in the kernel's own audit.
#[derive(Debug)]
pub struct BootClock(OwnedFd);

impl BootClock {
    /// Loads the program.
    pub fn load() -> io::Result<Self> {
        bpf::load_classifier(&code()).map(Self)
    }

    /// Makes [`sys::now`] give the programs' boot clock. Returns by how much it was wrong,
    /// nanoseconds: zero unless this is the first call of a process in a time namespace.
    pub fn align(&self) -> io::Result<i64> {
        let offset = self.offset()?;
        let off = offset.saturating_sub(sys::boot_offset());
        if off.unsigned_abs() < TOLERANCE {
            return Ok(0);
        }
        Ok(sys::set_boot_offset(offset))
    }

    /// Measures how much later the programs' boot clock is than this process's own, nanoseconds.
    /// Zero outside of a time namespace.
    fn offset(&self) -> io::Result<i64> {
        let Self(program) = self;
        let mut best: Option<(u64, i64)> = None;
        for _ in 0..READINGS {
            let before = sys::own_boot_clock();
            let mut frame = [0; FRAME];
            bpf::run_classifier(program, &mut frame)?;
            let after = sys::own_boot_clock();
            let written = frame.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            let took = after.0.saturating_sub(before.0);
            if best.is_none_or(|(shortest, _)| took < shortest) {
                best = Some((took, between(before, BootNanos(written), after)));
            }
        }
        Ok(best.map_or(0, |(_, offset)| offset))
    }
}

/// The same for a command that ends soon. Before Linux 5.11 what programs and tables take counts as locked
/// memory of the user, also what a gate has that is there: then this process's limit of that is raised.
pub fn align() -> io::Result<i64> {
    let clock = BootClock::load().or_else(|error| {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Err(error);
        }
        let unlimited = Rlimit { current: None, maximum: None };
        setrlimit(Resource::Memlock, unlimited).map_err(|_| error)?;
        BootClock::load()
    });
    clock?.align()
}

/// The offset of a clock that was read between two readings of another. They are the same clock if
/// that is possible.
fn between(before: BootNanos, read: BootNanos, after: BootNanos) -> i64 {
    let later = |than: BootNanos| i128::from(read.0) - i128::from(than.0);
    let offset = if later(before) < 0 {
        later(before)
    } else if later(after) > 0 {
        later(after)
    } else {
        0
    };
    i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX })
}

/// Writes the boot clock to the first eight bytes of the frame.
fn code() -> [bpf_insn; 11] {
    let step = |code, to, from, off, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(to, from),
        off,
        imm,
    };
    [
        step(MOVE, 6, 1, 0, 0),
        step(CALL, 0, 0, 0, BOOT_CLOCK),
        step(STORE_U64, STACK, 0, -8, 0),
        step(MOVE, 1, 6, 0, 0),
        step(MOVE_NUMBER, 2, 0, 0, 0),
        step(MOVE, 3, STACK, 0, 0),
        step(ADD_NUMBER, 3, 0, 0, -8),
        step(MOVE_NUMBER, 4, 0, 0, 8),
        step(MOVE_NUMBER, 5, 0, 0, 0),
        step(CALL, 0, 0, 0, STORE_BYTES),
        step(EXIT, 0, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_between_two_others_is_of_the_same_clock_and_one_outside_is_not() {
        let offset = |read| between(BootNanos(1_000), BootNanos(read), BootNanos(1_010));
        assert_eq!([offset(1_000), offset(1_005), offset(1_010)], [0; 3]);
        assert_eq!([offset(900), offset(2_010)], [-100, 1_000]);
        assert_eq!(between(BootNanos(0), BootNanos(u64::MAX), BootNanos(1)), i64::MAX);
    }
}
