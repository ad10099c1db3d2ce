//! The kernel programs: pointer arithmetic and map statics. Nothing here decides. The decision is
//! [`jit_common::decide`], which is compiled from the same source as on the host.
//!
//! The entry points share one inline function: XDP with `frags` (Linux 5.18+, needed for native XDP
//! on large MTUs) and without; TC for devices with an Ethernet header and for those without. The
//! socket guard is separate. It sees no packets, only look-ups of listening sockets, by whatever
//! way the packets came in.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod frame;
mod lookup;
mod record;
mod tables;

use aya_ebpf::{
    EbpfContext,
    bindings::{sk_action, xdp_action},
    macros::{classifier, sk_lookup, xdp},
    programs::{SkLookupContext, TcContext, XdpContext},
};
use jit_common::{Counter, Decision, Frame, Link, Reason, decide};

use crate::{
    frame::{NetworkFrame, TcFrame, XdpFrame},
    record::{count, record, record_guard},
    tables::{KernelTables, boot_nanos},
};

/// `TC_ACT_SHOT` (also `TCX_DROP`) and `TC_ACT_UNSPEC` (also `TCX_NEXT`): the next program decides
/// (`linux/pkt_cls.h`, `linux/bpf.h`).
const TC_DROP: i32 = 2;
const TC_NEXT: i32 = -1;

/// XDP without multi-buffer support.
#[xdp]
#[inline(always)]
fn jit_gate(ctx: XdpContext) -> u32 {
    xdp(&ctx)
}

/// XDP with multi-buffer support.
#[xdp(frags)]
#[inline(always)]
fn jit_gate_frags(ctx: XdpContext) -> u32 {
    xdp(&ctx)
}

/// TC ingress of a device with an Ethernet header.
#[classifier]
#[inline(always)]
fn jit_gate_tc(ctx: TcContext) -> i32 {
    // SAFETY: the kernel hands a valid context in.
    let untagged = unsafe { (*ctx.skb.skb).vlan_present } != 0;
    let link = if untagged { Link::EthernetUntagged } else { Link::Ethernet };
    tc(&ctx, &TcFrame::new(&ctx), link)
}

/// TC ingress of a device without one (tun, WireGuard, ipip, GRE).
#[classifier]
#[inline(always)]
fn jit_gate_tc_l3(ctx: TcContext) -> i32 {
    // SAFETY: the kernel hands a valid context in.
    let protocol = u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16);
    let link = Link::Network(protocol);
    // This is here and not in the decision: Linux 5.10's verifier does not see that such a packet
    // has no segment to count.
    if !link.is_ip() {
        count(Counter::Reason(Reason::NotIp));
        return TC_NEXT;
    }
    tc(&ctx, &NetworkFrame::new(&ctx), link)
}

/// Socket guard for Linux 5.17+, which names the interface.
#[sk_lookup]
#[inline(always)]
fn jit_guard(ctx: SkLookupContext) -> u32 {
    guard(&ctx, lookup::read(&ctx, true))
}

/// Socket guard of older kernels.
#[sk_lookup]
#[inline(always)]
fn jit_guard_legacy(ctx: SkLookupContext) -> u32 {
    guard(&ctx, lookup::read(&ctx, false))
}

#[inline(always)]
fn xdp(ctx: &XdpContext) -> u32 {
    let tables = KernelTables::new(ctx);
    let decision = decide(&XdpFrame::new(ctx), Link::Ethernet, &tables, boot_nanos);
    let dropped = record(&decision, ctx.ingress_ifindex() as u32);
    debug(ctx, &decision);
    if dropped { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

#[inline(always)]
fn tc<F: Frame>(ctx: &TcContext, frame: &F, link: Link) -> i32 {
    let decision = decide(frame, link, &KernelTables::new(ctx), boot_nanos);
    // SAFETY: the kernel hands a valid context in.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    let dropped = record(&decision, interface);
    debug(ctx, &decision);
    if dropped { TC_DROP } else { TC_NEXT }
}

#[inline(always)]
fn guard(ctx: &SkLookupContext, looked_up: Option<lookup::LookedUp>) -> u32 {
    let Some(looked_up) = looked_up else {
        return sk_action::SK_PASS;
    };
    let lookup::LookedUp { lookup, interface } = looked_up;
    if tables::asked_by_the_packet_gate(&lookup) {
        return sk_action::SK_DROP;
    }
    match jit_common::guard(&lookup, &KernelTables::new(ctx), boot_nanos) {
        Some(decision) if record_guard(&decision, interface) => sk_action::SK_DROP,
        _ => sk_action::SK_PASS,
    }
}

/// Logs a line for each packet that is dropped or let in. Off unless the agent runs at debug level.
#[inline(always)]
fn debug<C: EbpfContext>(ctx: &C, decision: &Decision) {
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
