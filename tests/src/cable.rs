//! A cable between two namespaces that carries IP packets and nothing else: a tun device at either
//! end, and a thread that hands the packets over.
//!
//! `unsafe` here is the ioctl that makes such a device, which no library offers.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    os::unix::fs::OpenOptionsExt as _,
    thread,
};

use crate::netns::Namespace;

/// `TUNSETIFF` and `TUNSETLINK` of `linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETLINK: libc::c_ulong = 0x4004_54cd;
/// `IFF_TUN` (IP packets) and `IFF_NO_PI` (and nothing in front of them).
const FLAGS: u16 = 0x0001 | 0x1000;
/// Larger than any packet of these devices.
const ROOM: usize = 2_048;

/// Connects two namespaces by devices without an Ethernet header, each with its addresses. `kind` is
/// the `ARPHRD_*` number that both say they are; zero: what tun devices are.
pub fn lay(
    (here, name, addresses): (&Namespace, &str, &[&str]),
    (there, other, other_addresses): (&Namespace, &str, &[&str]),
    kind: u16,
) {
    let one = end(here, name, addresses, kind);
    let two = end(there, other, other_addresses, kind);
    let copies = (one.try_clone().expect("duplicate"), two.try_clone().expect("duplicate"));
    carry(one, two);
    carry(copies.1, copies.0);
}

fn end(namespace: &Namespace, name: &str, addresses: &[&str], kind: u16) -> File {
    let device = namespace.run(|| open(name, kind).unwrap_or_else(|e| panic!("tun {name}: {e}")));
    for address in addresses {
        namespace.address(name, address);
    }
    namespace.ip(&["link", "set", name, "up"]);
    device
}

fn open(name: &str, kind: u16) -> io::Result<File> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // `struct ifreq`: the name, then the flags.
    let mut request = [0_u8; 40];
    for (byte, letter) in request.iter_mut().zip(name.bytes().take(15)) {
        *byte = letter;
    }
    for (byte, flag) in request.iter_mut().skip(16).zip(FLAGS.to_ne_bytes()) {
        *byte = flag;
    }
    // SAFETY: a `struct ifreq` that lives during the call.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    if kind != 0 {
        // SAFETY: the argument is a number.
        let set = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETLINK, libc::c_ulong::from(kind)) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(device)
}

/// Hands packets over until a device is gone.
fn carry(mut from: File, mut to: File) {
    thread::spawn(move || {
        let mut packet = [0; ROOM];
        while let Ok(length) = from.read(&mut packet) {
            // The other end may be down: its packets are lost, as with any cable.
            let _lost = to.write(packet.get(..length).unwrap_or_default());
        }
    });
}
