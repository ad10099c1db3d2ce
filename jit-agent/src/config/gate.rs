//! `[gate]`: what is attached where, and how.

use jit_proto::port_section::Mode;

use crate::config::{interfaces::InterfaceFilter, raw};

/// What is attached where.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Count, drop nothing.
    pub observe: bool,
    /// Which interfaces.
    pub interfaces: InterfaceFilter,
    /// How.
    pub hook: HookChoice,
    /// Whether look-ups of listening sockets are guarded too.
    pub socket_guard: bool,
}

/// How the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookChoice {
    /// The best that works: native XDP, TC, generic XDP, else the socket guard alone.
    Auto,
    /// A classifier of a clsact qdisc, also where the kernel has links for TC.
    Clsact,
    /// Generic XDP only.
    Generic,
    /// Native XDP only.
    Native,
    /// TC: by a link, or by a classifier where the kernel has none (before 6.6).
    Tc,
}

impl Gate {
    /// Of `[gate]`.
    pub(super) fn new(raw: raw::Gate) -> Result<Self, String> {
        let raw::Gate { mode, interfaces, exclude, hook, socket_guard } = raw;
        let observe = mode.is_some_and(|mode| mode == Mode::Observe);
        let interfaces = InterfaceFilter::new(interfaces, &exclude)?;
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
