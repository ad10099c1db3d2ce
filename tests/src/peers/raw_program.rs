//! XDP programs that are given as instructions, which the BPF library does not load: bpf(2) for
//! loading one, and for running it over a frame.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_type};

/// A loaded XDP program.
pub struct RawProgram(OwnedFd);

impl RawProgram {
    /// Loads these instructions.
    pub fn load(instructions: &[u64]) -> Self {
        let mut attr = zeroed();
        // SAFETY: this member is the one that BPF_PROG_LOAD reads.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_XDP as u32;
        load.insns = instructions.as_ptr().expose_provenance() as u64;
        load.insn_cnt = u32::try_from(instructions.len()).expect("a short program");
        load.license = c"GPL".as_ptr().expose_provenance() as u64;
        let fd = call(bpf_cmd::BPF_PROG_LOAD, &mut attr);
        // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The program's answer to a frame, and the nanoseconds of a run, the mean of `repeat` runs.
    pub fn run(&self, frame: &[u8], repeat: u32) -> (u32, f64) {
        let mut attr = zeroed();
        // SAFETY: this member is the one that BPF_PROG_TEST_RUN reads and writes.
        let test = unsafe { &mut attr.test };
        test.prog_fd = u32::try_from(self.0.as_raw_fd()).expect("a descriptor");
        test.data_in = frame.as_ptr().expose_provenance() as u64;
        test.data_size_in = u32::try_from(frame.len()).expect("a short frame");
        test.repeat = repeat;
        call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr);
        // SAFETY: as above.
        let test = unsafe { attr.test };
        (test.retval, f64::from(test.duration))
    }
}

impl AsFd for RawProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of integers; all zero is valid.
    unsafe { mem::zeroed() }
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> i32 {
    // SAFETY: `attr` is a whole `bpf_attr`; the pointers in it are of values that live longer.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>())
    };
    let result = i32::try_from(result).expect("a descriptor or an error");
    assert!(result >= 0, "bpf: {}", io::Error::last_os_error());
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frames::{Ipv4, Ipv6, Tcp, Udp},
        peers::{DROP, PARSE_AND_DROP, PASS},
    };

    #[test]
    fn only_tcp_is_dropped_by_the_program_that_parses() {
        let [from, to] = [[192, 0, 2, 7], [198, 51, 100, 1]].map(Into::into);
        let v4 = Ipv4::new(from, to);
        let v6 = Ipv6::new("2001:db8::7".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let syn = Tcp::syn(22);
        let program = RawProgram::load(PARSE_AND_DROP);
        for frame in [v4.tcp(&syn), v4.clone().options(&[1; 8]).tcp(&syn), v6.tcp(&syn)] {
            assert_eq!(program.run(&frame.frame(), 1).0, 1);
            assert_eq!(RawProgram::load(DROP).run(&frame.frame(), 1).0, 1);
            assert_eq!(RawProgram::load(PASS).run(&frame.frame(), 1).0, 2);
        }
        let long = Udp::to(22).payload(&[0; 64]);
        for frame in [v4.udp(&long), v6.udp(&long), v4.clone().words(4).tcp(&syn)] {
            assert_eq!(program.run(&frame.frame(), 1).0, 2);
        }
    }
}
