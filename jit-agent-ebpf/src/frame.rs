//! Packet bytes in BPF.

use aya_ebpf::{
    macros::map,
    maps::PerCpuArray,
    programs::{TcContext, XdpContext},
};
use jit_common::Frame;

/// Behind the last byte of the longest header chain that the parser walks (16,460): an offset that
/// went through [`Frame::forget`] needs a bound again.
const OFFSET_MASK: usize = 0x7fff;

#[map]
static SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The linear part of an XDP frame.
pub(crate) struct XdpFrame {
    data: usize,
    end: usize,
}

impl XdpFrame {
    /// The frame of this invocation.
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self { data: ctx.data(), end: ctx.data_end() }
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.data + (offset & OFFSET_MASK);
        if start + N > self.end {
            return None;
        }
        // SAFETY: `start..start + N` lies between the packet's start and its end (checked just
        // above, and again by the verifier); byte arrays have no alignment.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        forget(value)
    }
}

/// A packet in the stack, whose bytes may lie in several places (GRO, page fragments): the kernel
/// gathers them (`bpf_skb_load_bytes`), wherever they are.
pub(crate) struct TcFrame<'a> {
    ctx: &'a TcContext,
}

impl<'a> TcFrame<'a> {
    /// The packet of this invocation.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext) -> Self {
        Self { ctx }
    }
}

impl Frame for TcFrame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.ctx.load(offset & OFFSET_MASK).ok()
    }

    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        forget(value)
    }
}

/// Through a map's memory: the verifier follows a number's range through registers and the stack,
/// but not through a map.
#[inline(always)]
fn forget(value: usize) -> usize {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return value;
    };
    // SAFETY: a valid, aligned pointer to this CPU's own memory. XDP and TC programs run with
    // softirqs off, so nothing else writes to it between the two.
    unsafe {
        scratch.write_volatile(value as u64);
        scratch.read_volatile() as usize
    }
}
