//! `[gate]`: which interfaces get programs, and how they are attached.

use jit_proto::port_section::Mode;

use crate::config::{interfaces::InterfaceFilter, raw};

/// Which interfaces get programs, and how they are attached.
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// Observe mode of the whole gate: packets that would be dropped are counted and pass.
    pub observe: bool,
    /// The interfaces to gate.
    pub interfaces: InterfaceFilter,
    /// The hook to attach the programs through.
    pub hook: HookChoice,
    /// Whether the socket guard also checks look-ups of listening sockets.
    pub socket_guard: bool,
}

/// The value of `hook`: how the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookChoice {
    /// The first that works: native XDP, TC, generic XDP; else the socket guard alone.
    Auto,
    /// Only a classifier of a clsact qdisc, also where the kernel has TC links.
    Clsact,
    /// Only generic XDP.
    Generic,
    /// Only native XDP.
    Native,
    /// Only TC: a link, or a classifier where the kernel has no TC links (before Linux 6.6).
    Tc,
}

impl GateConfig {
    /// Checks a `[gate]`.
    pub(super) fn new(raw: raw::Gate) -> Result<Self, String> {
        let raw::Gate { mode, interfaces, exclude, hook, socket_guard } = raw;
        let observe = mode.is_some_and(|mode| mode == Mode::Observe);
        let interfaces = InterfaceFilter::new(interfaces, exclude)?;
        let hook = match hook {
            None | Some(raw::Hook::Auto) => HookChoice::Auto,
            Some(raw::Hook::Clsact) => HookChoice::Clsact,
            Some(raw::Hook::Generic) => HookChoice::Generic,
            Some(raw::Hook::Native) => HookChoice::Native,
            Some(raw::Hook::Tc) => HookChoice::Tc,
        };
        Ok(Self { observe, interfaces, hook, socket_guard: socket_guard.unwrap_or(true) })
    }
}
