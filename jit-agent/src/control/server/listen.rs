//! The sockets that the agent listens on.

use std::{fs, io, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

/// Largest number of connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;

/// Opens the listening port, also on an address that no interface has yet (IP_FREEBIND): at boot
/// the gate is in force before the network is configured.
pub fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    rustix::net::sockopt::set_ip_freebind(&socket, true)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Opens the unix socket: 0660, so that the group of the runtime directory may ask.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    // The lock on the pins shows that no other agent runs: an existing socket is an earlier one's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}
