//! The kernel programs: pointer arithmetic and map statics. Nothing here decides; the decision is
//! [`jit_common::decide`], compiled from the same source as the host's.
//!
//! Two XDP entry points over one inline function: with `frags` (Linux 5.18+, needed for native XDP
//! on large MTUs) and without, for older kernels.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod frame;
mod tables;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use jit_common::{Decision, Link, decide};

use crate::{
    frame::XdpFrame,
    tables::{KernelTables, boot_nanos, record},
};

/// Entry point without multi-buffer support.
#[xdp]
fn jit_gate(ctx: XdpContext) -> u32 {
    gate(&ctx)
}

/// Entry point with multi-buffer support.
#[xdp(frags)]
fn jit_gate_frags(ctx: XdpContext) -> u32 {
    gate(&ctx)
}

#[inline(always)]
fn gate(ctx: &XdpContext) -> u32 {
    let decision = decide(&XdpFrame::new(ctx), Link::Ethernet, &KernelTables::new(ctx), boot_nanos);
    let dropped = record(&decision, ctx.ingress_ifindex() as u32);
    debug(ctx, &decision);
    if dropped { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// One line for each packet that is dropped or let in; off unless the agent runs at debug level.
#[inline(always)]
fn debug(ctx: &XdpContext, decision: &Decision) {
    if let Some(segment) = &decision.segment {
        aya_log_ebpf::debug!(
            ctx,
            "port {} source port {} reason {}",
            segment.port.port,
            segment.source_port,
            decision.reason as u8
        );
    }
}

/// A reachable panic must fail at load: an endless loop is refused by the verifier.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    #[expect(clippy::empty_loop, reason = "the verifier refuses it, which is the point")]
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
