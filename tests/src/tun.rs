//! Connects two namespaces by raw IP packets. Each has a tun device, and a thread carries packets
//! across. These interfaces have no Ethernet header.
//!
//! `unsafe` is for the requests that make a tun device (TUNSETIFF, TUNSETLINK): no safe library
//! offers them.

use std::{
    ffi::c_short,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    thread,
};

use crate::netns::Namespace;

/// Larger than any packet.
const BUFFER: usize = 70_000;

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: c_short,
    padding: [u8; 22],
}

/// Makes the interface `name` in both namespaces. Each receives what the other sends, until one of
/// the interfaces is gone.
pub fn connect(name: &str, one: &Namespace, other: &Namespace) {
    connect_as(name, one, other, libc::ARPHRD_NONE);
}

/// The same with devices that say they are of this kind (`ARPHRD_*`).
pub fn connect_as(name: &str, one: &Namespace, other: &Namespace, kind: u16) {
    let [one, other] = [one, other].map(|namespace| {
        namespace
            .run(|| device(name, kind))
            .unwrap_or_else(|error| panic!("tun device {name}: {error}"))
    });
    let back = [&one, &other].map(|file| file.try_clone().expect("a second handle"));
    let [one_back, other_back] = back;
    thread::spawn(move || carry(one, other_back));
    thread::spawn(move || carry(other, one_back));
}

fn device(name: &str, kind: u16) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let flags = c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("two small flags");
    let mut request = Request { name: [0; 16], flags, padding: [0; 22] };
    for (to, from) in request.name.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    // SAFETY: the descriptor is open, and the pointer is that of a live, whole `struct ifreq`.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the argument is a number.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETLINK, libc::c_ulong::from(kind)) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Carries packets until one of the devices is gone. If the other side is down, a packet is lost,
/// as on a wire.
fn carry(mut from: File, mut to: File) {
    let mut packet = vec![0; BUFFER];
    while let Ok(length @ 1..) = from.read(&mut packet) {
        match to.write(packet.get(..length).unwrap_or_default()) {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return,
            _ => {}
        }
    }
}
