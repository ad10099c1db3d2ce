//! The peer at the other end of a connection: the names in its certificate, or a local user.
//! `authority` decides at each call what it may do.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use jit_proto::permission::{Permission, Permissions};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};
use tonic::transport::server::Connected;

use crate::{config::Controller, control::server::activity::Activity, rules::clock::BootNanos};

/// The peer, as its new connection showed it. What the peer may do is looked up at each call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Identification by the connection.
    pub who: Who,
    /// When the connection was accepted.
    pub connected: BootNanos,
}

/// How a peer is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A certificate.
    Certificate {
        /// Its subject alternative names.
        names: Vec<String>,
        /// The certificate, then those that lead to an authority. The chain was accepted when the
        /// connection was made, and must be accepted at each call.
        chain: Arc<[CertificateDer<'static>]>,
        /// The hub that the agent connected to, by its name in the configuration; `None`: the peer
        /// connected to the agent.
        hub: Option<ServerName<'static>>,
    },
    /// The user of a process on this machine, and the agent's own.
    Local {
        /// The peer's.
        uid: u32,
        /// The agent's.
        own: u32,
    },
}

impl Who {
    /// Whether the peer is root on this host, as the kernel says.
    pub const fn is_root(&self) -> bool {
        matches!(self, Self::Local { uid: 0, .. })
    }

    /// Whether the agent connected to the peer.
    pub const fn is_hub(&self) -> bool {
        matches!(self, Self::Certificate { hub: Some(_), .. })
    }

    /// Whether the peer is root or the agent's own user, as the kernel says. They may close.
    pub const fn is_trusted(&self) -> bool {
        matches!(self, Self::Local { uid, own } if *uid == 0 || *uid == *own)
    }
}

impl Caller {
    /// Its name, and what it may do by this table.
    pub fn identity(&self, controllers: &[Controller]) -> Identity {
        match &self.who {
            Who::Certificate { names, .. } => Identity::of_certificate(names, controllers),
            Who::Local { uid, .. } => Identity::of_local(*uid, self.who.is_trusted()),
        }
    }
}

/// A peer's name and permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A controller's name, or `local uid N`.
    pub name: String,
    /// What it may do.
    pub may: Permissions,
}

impl Identity {
    /// The controller that one of these certificate names stands for; a stranger with a good
    /// certificate may do nothing.
    pub fn of_certificate(names: &[String], controllers: &[Controller]) -> Self {
        controllers.iter().find(|controller| names.contains(&controller.identity)).map_or_else(
            || Self {
                name: format!("unknown controller {}", names.join(", ")),
                may: Permissions::default(),
            },
            |controller| Self { name: controller.identity.clone(), may: controller.may },
        )
    }

    /// A process on this machine. Root and the agent's own user may close and push (what they push
    /// must still be signed). All others who can open the socket may read.
    pub fn of_local(uid: u32, trusted: bool) -> Self {
        let may: &[_] = if trusted { &Permission::ALL } else { &[Permission::Read] };
        Self { name: format!("local uid {uid}"), may: may.iter().copied().collect() }
    }
}

/// What each request of a connection carries.
#[derive(Clone, Debug)]
pub(super) struct Linked {
    pub(super) caller: Caller,
    pub(super) activity: Activity,
    /// Number of the connection in the front; `None`: it is a local one.
    pub(super) connection: Option<u64>,
}

/// Number of bytes with which HTTP/2 begins: the preface and the head of a frame (RFC 9113 sections
/// 3.4 and 4.1).
const GREETING: usize = 24 + 9;

/// Bytes that are read from one connection before it is another one's turn. So a peer that sends
/// without a pause cannot keep a thread for itself.
const TURN: usize = 8 * 1024;

/// A connection that knows its peer, and has its place until it is dropped.
#[derive(Debug)]
pub(super) struct Peer<S, P> {
    stream: S,
    linked: Linked,
    /// Bytes received so far, up to the greeting.
    received: usize,
    /// Bytes read in this turn.
    turn: usize,
    /// Ready when the connection must be closed.
    closed: Option<oneshot::Receiver<()>>,
    ended: bool,
    _place: P,
}

impl<S, P> Peer<S, P> {
    /// A connection of this peer with this place. It ends when `closed` is ready.
    pub(super) fn new(
        stream: S,
        linked: Linked,
        place: P,
        closed: Option<oneshot::Receiver<()>>,
    ) -> Self {
        Self { stream, linked, received: 0, turn: 0, closed, ended: false, _place: place }
    }

    /// An error when the connection must be closed. All of a connection's reads and writes are of
    /// one task, which is woken then.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(closed) = &mut self.closed
            && Pin::new(closed).poll(context).is_ready()
        {
            self.closed = None;
            self.ended = true;
        }
        if self.ended { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn note(&mut self, bytes: usize) {
        self.turn = self.turn.saturating_add(bytes);
        if self.received < GREETING {
            self.received = self.received.saturating_add(bytes);
            if self.received >= GREETING {
                self.linked.activity.greeted();
            }
        }
    }
}

impl<S, P> Connected for Peer<S, P> {
    type ConnectInfo = Linked;

    fn connect_info(&self) -> Linked {
        self.linked.clone()
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Peer<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        if self.turn >= TURN {
            self.turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read {
            self.linked.activity.broke(error);
        }
        self.note(buffer.filled().len().saturating_sub(before));
        if read.is_pending() {
            self.turn = 0;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Peer<S, P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_certificate_that_is_not_in_the_table_may_do_nothing() {
        let may = Permissions::from_iter([Permission::Grant]);
        let table = [Controller { identity: "spiffe://example.org/c".into(), may }];
        let known =
            Identity::of_certificate(&["other".into(), "spiffe://example.org/c".into()], &table);
        assert_eq!((known.name.as_str(), known.may), ("spiffe://example.org/c", may));
        let stranger = Identity::of_certificate(&["spiffe://example.org/c2".into()], &table);
        assert_eq!(stranger.may, Permissions::default());
    }

    #[test]
    fn nobody_but_root_on_the_host_counts_as_root() {
        assert!(Who::Local { uid: 0, own: 990 }.is_root());
        assert!(!Who::Local { uid: 990, own: 990 }.is_root(), "the agent's own user");
        let certificate =
            Who::Certificate { names: vec!["root".into()], chain: [].into(), hub: None };
        assert!(!certificate.is_root(), "a controller, whatever it is called and may do");
    }

    #[test]
    fn only_root_and_the_agents_user_may_close_locally() {
        let may = |uid| {
            let who = Who::Local { uid, own: 990 };
            Caller { who, connected: BootNanos(0) }.identity(&[]).may
        };
        let revoke = Permission::Revoke;
        assert!(may(0).contains(revoke) && may(990).contains(revoke));
        assert_eq!(may(1000), Permissions::from_iter([Permission::Read]));
    }
}
