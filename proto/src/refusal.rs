//! Why a grant, a policy or a call is refused: the control plane's stable reason words.

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident => $word:literal,)*) => {
        /// Why a grant is not admitted. The words are stable: the same one appears in gRPC status
        /// details, audit records, `status` and the runbook.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// Every refusal, in alphabetical order.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name),*];

            /// The stable word.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

refusals! {
    /// The grant has fewer good signatures by distinct keys than a port requires.
    ApprovalsMissing => "approvals_missing",
    /// One signature names a trusted key, but no signature is good.
    BadSignature => "bad_signature",
    /// The payload type is unknown, or not the one expected here.
    BadType => "bad_type",
    /// The kernel's tables have no room.
    Capacity => "capacity",
    /// The policy asks for more than the host's `[ceiling]` allows, or the host has no `[ceiling]`.
    Ceiling => "ceiling",
    /// The host's clock shows an earlier time than it has shown before.
    ClockUntrusted => "clock_untrusted",
    /// The window has ended.
    Expired => "expired",
    /// The agent knows this id with other content.
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
    /// No policy of this version waits for a confirmation.
    NothingPending => "nothing_pending",
    /// It names a port that the key may not sign for.
    PortNotAllowed => "port_not_allowed",
    /// It names a port that this host does not protect.
    PortNotProtected => "port_not_protected",
    /// The id was revoked.
    Revoked => "revoked",
    /// A source lies outside what the host allows for the port.
    SourceNotAllowed => "source_not_allowed",
    /// A prefix is wider than the host allows.
    SourceTooWide => "source_too_wide",
    /// It may have been withheld: it is older than the last checkpoint, or no checkpoint is fresh.
    Stale => "stale",
    /// The policy's version is not higher than every version that this host has accepted.
    StaleVersion => "stale_version",
    /// It could not be written to disk.
    Storage => "storage",
    /// The controller has sent too many false signatures lately.
    Throttled => "throttled",
    /// The envelope, its signatures or its number of entries exceed a limit.
    TooLarge => "too_large",
    /// No signature names or matches a trusted key.
    UnknownKey => "unknown_key",
    /// The key that signed is weak.
    WeakKey => "weak_key",
    /// The grant is for other hosts.
    WrongHost => "wrong_host",
}
