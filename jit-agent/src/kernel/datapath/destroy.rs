//! Cuts sessions: destroys the sockets of this host whose peer no grant covers any more.
//!
//! A socket's last segment, the RST, goes outwards, where no gate is. Sockets in other network
//! namespaces, as with a `forwarded` port, are out of reach.

use std::time::Instant;

use jit_common::{Flow, PortKey, Protocol};

use crate::{
    kernel::{
        datapath::{
            cut::{Covers, Cut, CutError, CutScope, Fate, MOST},
            error::DatapathError,
            maps::Maps,
        },
        netlink::sock_diag::{SockDiag, Socket, Wanted},
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
    let able = diag.probe();
    if among.of.as_ref().is_some_and(Covers::is_empty) {
        return Ok(able?);
    }
    let own = sys::addresses()
        .map_err(|error| DatapathError::Sys { verb: "list this host's addresses", error })?;
    let mut ended: Vec<Socket> = Vec::new();
    let mut unread: Result<(), DatapathError> = Ok(());
    let wanted = if among.half_open { Wanted::HalfOpen } else { Wanted::Sessions };
    diag.list(range, wanted, |socket| {
        let Socket { peer, port, half_open, .. } = socket;
        // A host that connects to itself needs no grant.
        if peer.is_loopback() || own.contains(&peer) {
            return;
        }
        let Some(rule) = among.rule(peer, port, half_open) else { return };
        let fate = || -> Result<Fate, DatapathError> {
            let entries = maps.covering(peer, PortKey { protocol: Protocol::Tcp, port })?;
            let fate = Fate::of(entries.each_ref().map(Option::as_ref), rule, now);
            // A connection that this host opened is no session of the peer's.
            let ours = !matches!(fate, Fate::Covered) && maps.opened_here(&flow(&socket))?;
            Ok(if ours { Fate::Covered } else { fate })
        };
        let fate = match fate() {
            Ok(fate) => fate,
            // If the entries cannot be read, the session stays.
            Err(error) => {
                unread = Err(error);
                return;
            }
        };
        match fate {
            Fate::Covered => {}
            Fate::Ended if able.is_ok() && ended.len() < MOST => ended.push(socket),
            Fate::Ended if able.is_ok() => cut.more = true,
            Fate::Ended | Fate::Open if half_open => {}
            Fate::Ended | Fate::Open => *cut.open.entry((peer, port)).or_default() += 1,
        }
    })?;
    able?;
    for socket in &ended {
        if diag.destroy(socket)? {
            *cut.ended.entry((socket.peer, socket.port)).or_default() += 1;
        } else {
            // A handshake that is gone may have finished: then its session is another socket.
            cut.more |= socket.half_open;
        }
    }
    Ok(unread?)
}

/// A socket's connection, as segments of the peer name it.
fn flow(socket: &Socket) -> Flow {
    let Socket { peer, peer_port, local, port, .. } = *socket;
    Flow {
        source: peer.words,
        destination: local.words,
        source_port: peer_port,
        port,
        family: peer.family as u8,
        reserved: [0; 3],
    }
}
