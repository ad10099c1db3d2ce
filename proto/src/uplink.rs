//! Uplinks: connections that an agent makes to a hub, because nobody can dial the agent.
//!
//! The agent makes the TCP connection (through a proxy, if it must) and is the client of the TLS 1.3
//! handshake, in which both sides show a certificate. From then on the roles are exchanged: the *agent*
//! serves HTTP/2 with `jit.v1.JitAgent`, as on its listening port, and the *hub* calls. So a hub is a
//! controller like any other: the agent looks the names of the hub's certificate up in its
//! `[[controller]]` sections at each call.

/// The protocol that both sides offer (ALPN, RFC 7301): neither takes the connection for one of the
/// other direction.
pub const ALPN: &[u8] = b"jit-agent-uplink/1";

/// The protocol of a spare connection, which waits until the agent loses the one in use. The hub calls
/// only after the agent has sent one byte, [`IN_USE`]. From then on it is an uplink like any other.
pub const SPARE: &[u8] = b"jit-agent-uplink-spare/1";

/// The byte by which an agent takes a spare connection into use.
pub const IN_USE: u8 = 1;

/// What a host signs with the key of its certificate to prove that it makes this request (PKCS#10,
/// DER) for its next one. A hub could put a request of its own in its place.
pub fn next_certificate(csr: &[u8]) -> Vec<u8> {
    [b"jit-agent next certificate/1\0", csr].concat()
}
