//! Loads packet bytes in BPF.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    helpers::generated::bpf_skb_load_bytes_relative,
    macros::map,
    maps::PerCpuArray,
    programs::{TcContext, XdpContext},
};
use jit_common::Frame;

/// Bound for offsets, bytes: past the longest header chain that the parser walks (16,460). An
/// offset that went through [`Frame::forget`] needs a bound again.
const OFFSET_MASK: usize = 0x7fff;

/// Largest number of bytes in front of a packet's network header: an outer header with its options,
/// and a little more.
const MOST_BEFORE_NETWORK: usize = 128;

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
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let start = self.data + (offset & OFFSET_MASK);
        if start + 4 * N > self.end {
            return None;
        }
        // SAFETY: as in `load`.
        Some(core::array::from_fn(|index| unsafe { word_at(start + 4 * index) }))
    }

    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        let start = self.data + (offset & OFFSET_MASK);
        if start + 2 > self.end {
            return None;
        }
        // SAFETY: as in `load`.
        Some(u16::from_be(unsafe { half_at(start) }))
    }

    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        forget(value)
    }
}

/// Reads a word at any address. To the compiler an unaligned word is four reads of a byte; the
/// kernel allows it in a packet (`check_ptr_alignment` in `kernel/bpf/verifier.c`).
///
/// # Safety
/// The word lies in the packet.
#[inline(always)]
unsafe fn word_at(address: usize) -> u32 {
    let word: u64;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("{0} = *(u32 *)({1} + 0)", out(reg) word, in(reg) address, options(pure, readonly, nostack));
    }
    word as u32
}

/// The same for two bytes.
///
/// # Safety
/// They lie in the packet.
#[inline(always)]
unsafe fn half_at(address: usize) -> u16 {
    let half: u64;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("{0} = *(u16 *)({1} + 0)", out(reg) half, in(reg) address, options(pure, readonly, nostack));
    }
    half as u16
}

/// A packet in the stack. Its bytes may lie in several places (GRO, page fragments), and the kernel
/// gathers them (`bpf_skb_load_bytes`).
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
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.ctx.load(offset & OFFSET_MASK).ok()
    }

    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        forget(value)
    }
}

/// A packet in the stack, from its network header on. On a device without an Ethernet header the
/// bytes in front of the network header depend on the kind of device and on the kernel: none (tun,
/// WireGuard), the outer header (GRE without a remote), or leftovers of the device below (xfrm,
/// vti).
pub(crate) struct NetworkFrame<'a> {
    ctx: &'a TcContext,
}

impl<'a> NetworkFrame<'a> {
    /// The packet of this invocation.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext) -> Self {
        Self { ctx }
    }

    /// Reads from the packet's linear part only.
    ///
    /// # Safety
    /// Every pattern of bits is a `T`.
    #[inline(always)]
    unsafe fn load_linear<T>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the kernel hands a valid context in. It writes the whole value, or zeroes it and
        // fails; the caller promises that any bytes will do.
        unsafe {
            let failed = bpf_skb_load_bytes_relative(
                self.ctx.skb.skb.cast(),
                offset as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                BPF_HDR_START_NET,
            );
            (failed == 0).then(|| value.assume_init())
        }
    }

    /// # Safety
    /// As for `load_linear`.
    #[inline(always)]
    unsafe fn load_anywhere<T>(&self, offset: usize) -> Option<T> {
        let offset = offset & OFFSET_MASK;
        // SAFETY: the caller's promise.
        if let Some(value) = unsafe { self.load_linear(offset) } {
            return Some(value);
        }
        // The bytes may lie after the linear part: then the kernel pulls them into it. Bytes that
        // are not in the packet at all are still missing afterwards.
        let wanted = (offset + size_of::<T>() + MOST_BEFORE_NETWORK) as u32;
        let length = self.ctx.len();
        let _refused = self.ctx.pull_data(if length < wanted { length } else { wanted });
        // SAFETY: the caller's promise.
        unsafe { self.load_linear(offset) }
    }
}

impl Frame for NetworkFrame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // SAFETY: any bytes are bytes.
        unsafe { self.load_anywhere(offset) }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        // SAFETY: any bytes are words.
        unsafe { self.load_anywhere(offset) }
    }

    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        forget(value)
    }
}

/// Passes a number through a map's memory. The verifier follows a number's range through registers
/// and the stack, but not through a map.
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
