//! The driver and the queues of a network device, by the ioctl of ethtool(8): every kernel has it,
//! and it needs no rights.

use std::{
    ffi::CStr,
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// `SIOCETHTOOL` of `linux/sockios.h`, in the type that this C library has for it.
const ETHTOOL: libc::Ioctl = 0x8946;
/// Commands of `linux/ethtool.h`.
const GET_DRIVER: u32 = 0x03;
const GET_CHANNELS: u32 = 0x3c;

/// Queues of a device, each with a share of its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Those in use, for both directions, or for the incoming one alone.
    pub used: u32,
    /// The most that there can be.
    pub most: u32,
}

/// `struct ethtool_drvinfo` of `linux/ethtool.h`.
#[repr(C)]
struct Driver {
    command: u32,
    driver: [libc::c_char; 32],
    rest: [u8; 160],
}
const _: () = assert!(size_of::<Driver>() == 196);

/// `struct ethtool_channels` of `linux/ethtool.h`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// A way to ask about devices of this network namespace.
#[derive(Debug)]
pub struct Ethtool(OwnedFd);

impl Ethtool {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        Ok(Self(socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?))
    }

    /// The name of a device's driver: "ena", "veth".
    pub fn driver(&self, name: &str) -> io::Result<String> {
        let mut driver = Driver { command: GET_DRIVER, driver: [0; 32], rest: [0; 160] };
        self.ask(name, &mut driver)?;
        // The kernel ends it with a NUL; it does so once more here.
        driver.driver[31] = 0;
        // SAFETY: the array is 32 bytes long, and its last one is a NUL.
        let text = unsafe { CStr::from_ptr(driver.driver.as_ptr()) };
        Ok(text.to_string_lossy().into_owned())
    }

    /// A device's queues; an error also where it has none that can be set.
    pub fn queues(&self, name: &str) -> io::Result<Queues> {
        let mut channels = Channels { command: GET_CHANNELS, ..Channels::default() };
        self.ask(name, &mut channels)?;
        let Channels { max_rx, max_combined, rx, combined, .. } = channels;
        Ok(if max_combined > 0 {
            Queues { used: combined, most: max_combined }
        } else {
            Queues { used: rx, most: max_rx }
        })
    }

    /// `request` begins with the number of a command.
    fn ask<T>(&self, name: &str, request: &mut T) -> io::Result<()> {
        let Self(socket) = self;
        // SAFETY: `ifreq` is made of integers and a pointer; all zero is valid.
        let mut message: libc::ifreq = unsafe { mem::zeroed() };
        // One byte stays, for the NUL.
        for (to, from) in message.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        message.ifr_ifru.ifru_data = (&raw mut *request).cast();
        // SAFETY: the kernel reads the command at the beginning of the request, and writes no more
        // than the structure of that command, which the request is. Both live until it returns.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, &raw mut message) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let ethtool = Ethtool::open().unwrap();
        for name in ["", "no-such-device", "a-name-that-is-longer-than-any-device-has"] {
            assert!(ethtool.driver(name).is_err() && ethtool.queues(name).is_err(), "{name}");
        }
    }
}
