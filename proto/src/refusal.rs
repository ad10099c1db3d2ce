//! Why a grant, a policy or a call is refused: the control plane's stable reason words.

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident => $word:literal,)*) => {
        /// Why a grant is not admitted. The words are stable: the same one appears in gRPC status
        /// details, metrics, records, `status` and the runbook.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// All of them.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name),*];

            /// The stable word.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

refusals! {
    /// Fewer good signatures by distinct keys than a port asks for.
    ApprovalsMissing => "approvals_missing",
    /// No signature is good, though one names a trusted key.
    BadSignature => "bad_signature",
    /// The payload type is not one of ours, or not the one expected here.
    BadType => "bad_type",
    /// No room in the kernel's tables.
    Capacity => "capacity",
    /// A policy asks for more than the host's `[ceiling]` allows, or there is none.
    Ceiling => "ceiling",
    /// The host's clock is behind a time that it has seen already.
    ClockUntrusted => "clock_untrusted",
    /// The window is over.
    Expired => "expired",
    /// The id is known with other content.
    IdConflict => "id_conflict",
    /// The window is empty, inverted, or longer than allowed.
    Lifetime => "lifetime",
    /// The signed payload does not decode, or a required field is missing.
    Malformed => "malformed",
    /// The confirmation came over a connection that was open before the policy was applied.
    NotFresh => "not_fresh",
    /// The controller may not do this.
    NotPermitted => "not_permitted",
    /// Issued too far in the future.
    NotYetValid => "not_yet_valid",
    /// There is no policy of this version that waits for a confirmation.
    NothingPending => "nothing_pending",
    /// A port in it is none that the key may sign for.
    PortNotAllowed => "port_not_allowed",
    /// A port in it is not protected on this host.
    PortNotProtected => "port_not_protected",
    /// The id was revoked.
    Revoked => "revoked",
    /// A source lies outside what the host allows for the port.
    SourceNotAllowed => "source_not_allowed",
    /// A prefix is wider than the host allows.
    SourceTooWide => "source_too_wide",
    /// The policy's version is not above every one that this host has accepted.
    StaleVersion => "stale_version",
    /// The disk did not take it.
    Storage => "storage",
    /// Envelope, signatures or number of entries over the limit.
    TooLarge => "too_large",
    /// No signature names or fits a trusted key.
    UnknownKey => "unknown_key",
    /// The key that signed is weak.
    WeakKey => "weak_key",
    /// The grant is for other hosts.
    WrongHost => "wrong_host",
}
