//! Cuts sessions: destroys the sockets of this host whose peer no grant covers any more.
//!
//! A socket's last segment, the RST, goes outwards, where no gate is. Sockets in other network
//! namespaces, as with a `forwarded` port, are out of reach.

use std::time::Instant;

use jit_common::{Flow, PortKey, Protocol, session_has_ended};

use crate::{
    kernel::{
        datapath::{
            cut::{Cut, CutError, CutScope, MOST},
            error::DatapathError,
            maps::Maps,
        },
        netlink::sock_diag::{SockDiag, Socket},
    },
    rules::clock::BootNanos,
    system::sys,
};

/// Cuts the sessions among these whose grants have ended.
pub(super) fn cut(maps: &Maps, among: &CutScope, now: BootNanos) -> Cut {
    let began = Instant::now();
    let mut cut = Cut::default();
    cut.problem = end(maps, among, now, &mut cut).err();
    cut.took = began.elapsed();
    cut
}

fn end(maps: &Maps, among: &CutScope, now: BootNanos, cut: &mut Cut) -> Result<(), CutError> {
    let Some(range) = among.range() else { return Ok(()) };
    let mut diag = SockDiag::open()?;
    diag.probe()?;
    let own = sys::addresses()
        .map_err(|error| DatapathError::Sys { verb: "list this host's addresses", error })?;
    let mut ended: Vec<Socket> = Vec::new();
    let mut unread: Result<(), DatapathError> = Ok(());
    diag.list(range, among.half_open, |socket| {
        let Socket { peer, port, half_open, .. } = socket;
        // A host that connects to itself needs no grant.
        if peer.is_loopback() || own.contains(&peer) {
            return;
        }
        let Some(rule) = among.rule(peer, port, half_open) else { return };
        let has_ended = || -> Result<bool, DatapathError> {
            let port = PortKey { protocol: Protocol::Tcp, port };
            let [host, prefix] = maps.covering(peer, port)?;
            let ended = session_has_ended(host.as_ref(), prefix.as_ref(), rule, now.0);
            // A connection that this host opened is no session of the peer's.
            Ok(ended && !maps.opened_here(&flow(&socket))?)
        };
        match has_ended() {
            Ok(false) => {}
            Ok(true) => {
                cut.more |= ended.len() >= MOST;
                if !cut.more {
                    ended.push(socket);
                }
            }
            // If the entries cannot be read, the session stays.
            Err(error) => unread = Err(error),
        }
    })?;
    for socket in &ended {
        if diag.destroy(socket)? {
            *cut.ended.entry((socket.peer, socket.port)).or_default() += 1;
        }
    }
    Ok(unread?)
}

/// A socket's connection, as segments of the peer name it.
fn flow(socket: &Socket) -> Flow {
    let Socket { peer, peer_port, local, port, .. } = *socket;
    Flow {
        source: peer.bytes,
        destination: local.bytes,
        source_port: peer_port,
        port,
        family: peer.family as u8,
        reserved: [0; 3],
    }
}
