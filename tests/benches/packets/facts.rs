//! What the loaded programs are: bytes of machine code, instructions that the verifier went through,
//! bytes of the stack.

use aya::programs::ProgramInfo;
use aya_obj::{Object, generated::bpf_insn};
use jit_agent::kernel::datapath::object::OBJECT;
use jit_tests::{
    figures::{Figure, GATE},
    kernel::{Kernel, all_programs},
    peers::{XDP_FILTER, XdpFilter},
};

use crate::program;

/// The frame pointer.
const FRAME: u8 = 10;
/// Classes of instructions that read from or write to memory (RFC 9669 section 3).
const LOAD: u8 = 1;
const STORE: u8 = 2;
const STORE_REGISTER: u8 = 3;
/// `MOV` from a register, and `ADD` of a number, to 64 bits.
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;

/// Reports them. xdp-filter stands beside the XDP program that the agent prefers.
pub(crate) fn report(base: &Kernel, filter: &XdpFilter) {
    let object = Object::parse(OBJECT).expect("the object can be read");
    for name in all_programs() {
        let mut subjects = vec![(GATE, base.info(name))];
        if name == program() {
            subjects.push((XDP_FILTER, filter.info()));
        }
        for (subject, info) in subjects {
            loaded(name, subject, &info);
        }
        let program = object.programs.get(name).expect("a program of the object");
        let function = object.functions.get(&program.function_key()).expect("its function");
        figure(name, GATE, "stack", "bytes", f64::from(stack(&function.instructions)));
    }
}

fn loaded(name: &str, subject: &str, info: &ProgramInfo) {
    figure(name, subject, "machine code", "bytes", f64::from(info.size_jitted()));
    if let Some(verified) = info.verified_instruction_count() {
        figure(name, subject, "verified", "instructions", f64::from(verified));
    }
}

fn figure(name: &str, subject: &str, what: &str, unit: &str, value: f64) {
    let row = format!("{name}: {what}");
    let values = vec![value];
    Figure { table: "programs", row: &row, subject, unit, more_is_better: false, values }.report();
}

/// Bytes of the stack, from the lowest place that the instructions name.
fn stack(instructions: &[bpf_insn]) -> u32 {
    let following = instructions.iter().skip(1).map(Some).chain([None]);
    let lowest = instructions.iter().zip(following).filter_map(|(this, next)| {
        match (this.code & 7, this.code) {
            (LOAD, _) if this.src_reg() == FRAME => Some(i32::from(this.off)),
            (STORE | STORE_REGISTER, _) if this.dst_reg() == FRAME => Some(i32::from(this.off)),
            (_, COPY) if this.src_reg() == FRAME => next
                .filter(|next| next.code == ADD && next.dst_reg() == this.dst_reg())
                .map(|next| next.imm),
            _ => None,
        }
    });
    lowest.min().unwrap_or(0).unsigned_abs()
}
