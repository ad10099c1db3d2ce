//! Why a metadata service gave no id, as data and in words.

/// Why a source gave no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nobody listens there.
    #[error("absent: nobody listens there")]
    Absent,
    /// The connection broke off.
    #[error("the connection failed: {0}")]
    Broken(String),
    /// EC2 took the request for a token and did not answer.
    #[error(
        "it took the request for a token and did not answer within 2 s: most often the hop limit of \
         the instance is 1 and a bridge or container is between; set HttpPutResponseHopLimit to 2, or \
         run the agent in the host's own network namespace"
    )]
    HopLimit,
    /// The answer is not what the service documents.
    #[error("malformed: {0}")]
    Malformed(String),
    /// There is no way to that address.
    #[error("absent: this host has no route to it")]
    NoRoute,
    /// A redirect; it is not followed.
    #[error("it answered with a redirect (status {0}), which is never followed")]
    Redirect(u16),
    /// Another status than 200.
    #[error("it answered with status {0}")]
    Refused(u16),
    /// Connected, and the answer did not come in time.
    #[error("slow: it took the request and did not answer within 2 s")]
    Slow,
    /// The answer has more than 64 KiB, or too large a head.
    #[error("its answer is too large (more than 64 KiB, or too many headers): cut off, not used")]
    TooLarge,
    /// No connection in time.
    #[error("absent: no connection within 1 s")]
    Unreached,
    /// The port is a process's that must not speak for the machine.
    #[error("not asked: {0}")]
    Untrusted(String),
}

impl Fault {
    /// A stable word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Absent | Self::NoRoute | Self::Unreached => "absent",
            Self::Broken(_) => "broken",
            Self::HopLimit => "hop_limit",
            Self::Malformed(_) => "malformed",
            Self::Redirect(_) => "redirect",
            Self::Refused(_) => "refused",
            Self::Slow => "slow",
            Self::TooLarge => "too_large",
            Self::Untrusted(_) => "untrusted",
        }
    }
}
