//! The data plane's reason words: why a packet passed or was dropped.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal, $verdict:ident;)*) => {
        /// The outcome of one decision. The word of each is stable: it appears in counters,
        /// counters, events, `status` and the runbook.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// Every reason, in the order of the numbers used in the counters table.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$name),*];

            /// The stable word, lower case with underscores.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// Whether a packet with this outcome is dropped in enforce mode.
            #[inline(always)]
            pub const fn drops(self) -> bool {
                match self { $(Self::$name => reasons!(@$verdict),)* }
            }

            /// The reason with this number, as found in an event or a counter index.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
    (@drop) => { true };
    (@pass) => { false };
}

reasons! {
    /// IPv6 TCP from an IPv4-mapped, multicast or unspecified source.
    BadSource = 0, "bad_source", drop;
    /// More than [`crate::MAX_EXTENSION_HEADERS`] IPv6 extension headers.
    Chain = 1, "chain", drop;
    /// A SYN (or a UDP datagram) to a protected port without a live grant.
    Denied = 2, "denied", drop;
    /// A segment of an established session without a live grant, on a `cut` port, or where the last
    /// grant cuts.
    Expired = 3, "expired", drop;
    /// A fragment that could carry or overwrite a TCP header unseen (RFC 1858, RFC 7112).
    Fragment = 4, "fragment", drop;
    /// A header that contradicts itself or is cut short.
    Malformed = 5, "malformed", drop;
    /// A bare segment to a protected port that no established session on this host owns.
    NoSession = 6, "no_session", drop;
    /// More than [`crate::MAX_VLAN_TAGS`] VLAN tags.
    VlanDepth = 7, "vlan_depth", drop;
    /// A segment of an established session without a live grant: on a port with sessions `drain`,
    /// or of a session that this host opened. On a `drain` port also a datagram to a connected UDP
    /// socket.
    Established = 8, "established", pass;
    /// The same on a port whose sessions end elsewhere (`terminates = "forwarded"`).
    Forwarded = 9, "forwarded", pass;
    /// A live grant covers source and port.
    Granted = 10, "granted", pass;
    /// A fragment after the first that cannot reach a TCP header.
    LaterFragment = 11, "later_fragment", pass;
    /// Neither IPv4 nor IPv6.
    NotIp = 12, "not_ip", pass;
    /// IP, but neither TCP nor UDP (ICMP, ESP, tunnels, ...).
    OtherProtocol = 13, "other_protocol", pass;
    /// TCP or UDP to a port that is not protected.
    Unprotected = 14, "unprotected", pass;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_round_trip() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::from_number(*reason as u8), Some(*reason));
        }
        assert_eq!(Reason::from_number(Reason::Unprotected as u8 + 1), None);
        assert_eq!(Reason::from_number(255), None);
    }

    #[test]
    fn words_are_unique() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert!(Reason::ALL[index + 1..].iter().all(|other| other.word() != reason.word()));
        }
    }
}
