//! Reads the look-up of a listening socket from the socket guard's context.

use aya_ebpf::{bindings::bpf_sk_lookup, programs::SkLookupContext};
use jit_common::{Address, Family, Lookup, PortKey, Protocol};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// Index of the loopback interface of every network namespace (`LOOPBACK_IFINDEX`, `net/flow.h`).
const LOOPBACK: u32 = 1;

/// A look-up, and the values that only events need.
pub(crate) struct LookedUp {
    pub(crate) lookup: Lookup,
    /// Zero where the kernel does not say.
    pub(crate) interface: u32,
}

/// Reads the context. `None`: nothing that can be protected. `with_interface`: also read the
/// interface. Kernels before 5.17 do not have it (their verifier refuses the program).
#[inline(always)]
pub(crate) fn read(ctx: &SkLookupContext, with_interface: bool) -> Option<LookedUp> {
    let raw = ctx.lookup;
    // SAFETY: the kernel hands a valid context in. Fields are read one by one and never together:
    // the verifier allows no access across two of them.
    unsafe {
        let protocol = Protocol::from_number(field(&raw const (*raw).protocol) as u8)?;
        let port = PortKey { protocol, port: field(&raw const (*raw).local_port) as u16 };
        let (source, destination) = match field(&raw const (*raw).family) {
            AF_INET => {
                (v4(field(&raw const (*raw).remote_ip4)), v4(field(&raw const (*raw).local_ip4)))
            }
            AF_INET6 => (v6(&raw const (*raw).remote_ip6), v6(&raw const (*raw).local_ip6)),
            _ => return None,
        };
        let interface = if with_interface { field(&raw const (*raw).ingress_ifindex) } else { 0 };
        let loopback = if with_interface { Some(interface == LOOPBACK) } else { None };
        let source_port = u16::from_be(field(&raw const (*raw).remote_port));
        let lookup = Lookup { source, destination, source_port, port, loopback };
        Some(LookedUp { lookup, interface })
    }
}

#[inline(always)]
const fn v4(word: u32) -> Address {
    Address { family: Family::V4, words: [word, 0, 0, 0] }
}

/// # Safety
/// `words` points to a field of a valid context.
#[inline(always)]
unsafe fn v6(words: *const [u32; 4]) -> Address {
    let word = words.cast::<u32>();
    // SAFETY: four words, of which `index` is one.
    let words = core::array::from_fn(|index| unsafe { field(word.add(index)) });
    Address { family: Family::V6, words }
}

/// # Safety
/// `place` is a field of a valid context.
#[inline(always)]
unsafe fn field<T>(place: *const T) -> T {
    // SAFETY: the caller's promise.
    unsafe { place.read_volatile() }
}

const _: () = assert!(size_of::<bpf_sk_lookup>() >= 64);
