//! What the running kernel can do for the gate, tried with a program of two instructions that is
//! attached to nothing.

use std::io;

use aya::{programs::ProgramType, sys::is_program_supported};
use aya_obj::generated::{bpf_insn, bpf_prog_type};

use crate::kernel::datapath::bpf;

/// `r0 = 2` (XDP_PASS) and `exit`, of `linux/bpf.h`.
const MOVE_NUMBER: u8 = 0xb7;
const EXIT: u8 = 0x95;
const XDP_PASS: i32 = 2;

/// What the kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// It attaches XDP programs by links (Linux 5.9).
    pub xdp_links: bool,
    /// It compiles programs; otherwise it interprets them.
    pub compiles: bool,
    /// It knows socket guards (`sk_lookup`, Linux 5.9).
    pub socket_guards: bool,
}

impl Features {
    /// Tries it. Needs the agent's capabilities.
    ///
    /// # Errors
    /// The kernel takes no program at all.
    pub fn read() -> io::Result<Self> {
        let program = bpf::load(bpf_prog_type::BPF_PROG_TYPE_XDP, &code())?;
        Ok(Self {
            xdp_links: bpf::has_xdp_links(&program),
            compiles: bpf::is_compiled(&program)?,
            socket_guards: is_program_supported(ProgramType::SkLookup).unwrap_or(false),
        })
    }
}

fn code() -> [bpf_insn; 2] {
    let step = |code, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm,
    };
    [step(MOVE_NUMBER, XDP_PASS), step(EXIT, 0)]
}
