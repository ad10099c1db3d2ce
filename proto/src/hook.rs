//! The hooks through which a program can be attached to an interface.

/// The hook through which a program is attached; the preferred hooks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Native XDP, in the driver.
    XdpNative,
    /// TC ingress by a link (Linux 6.6+).
    Tcx,
    /// TC ingress by a classifier of a clsact qdisc.
    Clsact,
    /// Generic XDP, in the stack.
    XdpGeneric,
}

impl Hook {
    /// Every hook, the preferred ones first.
    pub const ALL: [Self; 4] = [Self::XdpNative, Self::Tcx, Self::Clsact, Self::XdpGeneric];

    /// The stable word in status, JSON and configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp_native",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::XdpGeneric => "xdp_generic",
        }
    }

    /// The name that people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "native XDP",
            Self::Tcx => "TC (tcx)",
            Self::Clsact => "TC (clsact)",
            Self::XdpGeneric => "generic XDP",
        }
    }

    /// The hook with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_is_found_by_its_word() {
        for hook in Hook::ALL {
            assert_eq!(Hook::from_word(hook.word()), Some(hook));
        }
        assert_eq!(Hook::from_word("native XDP"), None);
    }
}
