//! Why the bus did not do something.

use std::path::PathBuf;

/// A cause. None of them loses anything: what is in the outbox stays there.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A request of JetStream's failed.
    #[error("the bus cannot {what}: {why}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// No server lets this one in.
    #[error(
        "no server of the bus ({servers}) lets this controller in: {why}; the servers' logs say more"
    )]
    Connect {
        /// Those that were tried.
        servers: String,
        /// The last one's reason.
        why: String,
    },
    /// There is something else in its place.
    #[error(
        "{subject}: something else is there, which is neither this grant nor its revocation. Only the \
         controller may publish: see who else has its nkey, and remove the message \
         (`nats stream rmm`)"
    )]
    Covered {
        /// The place.
        subject: String,
    },
    /// Its time has ended.
    #[error("its time has ended, and it is not published")]
    Ended,
    /// A file that is needed.
    #[error("{}: {why}", file.display())]
    File {
        /// Which one.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A mailbox could not be read as a whole: what came is not used.
    #[error("the mailbox of {host} came only in part: {why}; it has to be read again")]
    Partial {
        /// Whose.
        host: String,
        /// What was missing.
        why: String,
    },
    /// A stream that was there has other settings.
    #[error(
        "the stream {stream} has other settings than it needs: {differences}. Move it aside \
         (`nats stream rm {stream}`: the outbox fills it again), then start this again"
    )]
    Stream {
        /// Its name.
        stream: String,
        /// Each one, what it is and what it has to be.
        differences: String,
    },
    /// More bytes than a message may have.
    #[error("{what} has {size} bytes, the most are {most}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The most, bytes.
        most: usize,
    },
    /// A server that is too old.
    #[error(
        "the server {server} has version {version}; at least {least} is needed, older ones have \
         published flaws"
    )]
    Version {
        /// Its name.
        server: String,
        /// Its version.
        version: String,
        /// The oldest that will do.
        least: &'static str,
    },
}

impl BusError {
    pub(super) fn api(what: &'static str, why: impl ToString) -> Self {
        Self::Api { what, why: why.to_string() }
    }
}
