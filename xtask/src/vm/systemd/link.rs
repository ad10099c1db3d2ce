//! The other end of the machine's link: a network namespace with a tap, from which strangers,
//! clients and the controller come. Nothing here touches the network of this host.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd as _,
    path::Path,
    process::{Child, Command, Output},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::shell;

/// The tap on this end of the link.
pub(super) const TAP: &str = "vm0";
/// The machine's hardware address.
pub(super) const HARDWARE: &str = "52:54:00:00:00:10";
const PREFIX: &str = "jit-vm-";
const NAMED: &str = "/run/netns";

/// The machine.
pub(super) const MACHINE: Addresses = addresses(10, 0x10);
/// The host that gets a grant.
pub(super) const CLIENT: Addresses = addresses(7, 7);
/// The host that gets no grant, and tries all the time.
pub(super) const STRANGER: Addresses = addresses(9, 9);
/// The last bytes of the addresses of more strangers, 203.0.113.0/24. Only the floods have them.
pub(super) const STRANGERS: std::ops::Range<u8> = 100..120;
/// The host of the controller. It has the first address, which `jitctl` takes.
const CONTROLLER: Addresses = addresses(2, 2);

/// A host's two addresses.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Addresses {
    pub(super) fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

const fn addresses(v4: u8, v6: u16) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(203, 0, 113, v4),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, v6),
    }
}

/// The namespace. Drop removes it.
pub(super) struct Link {
    name: String,
    file: File,
}

impl Link {
    pub(super) fn new() -> Result<Self> {
        sweep();
        let name = format!("{PREFIX}{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let path = Path::new(NAMED).join(&name);
        let opened = File::open(&path).with_context(|| format!("opening {}", path.display()));
        let file = opened.inspect_err(|_| drop(ip(&["netns", "del", &name])))?;
        let link = Self { name, file };
        link.ip(&["link", "set", "lo", "up"])?;
        link.ip(&["tuntap", "add", "dev", TAP, "mode", "tap"])?;
        for Addresses { v4, v6 } in [CONTROLLER, CLIENT, STRANGER] {
            link.ip(&["address", "add", &format!("{v4}/24"), "dev", TAP])?;
            link.ip(&["address", "add", &format!("{v6}/64"), "dev", TAP, "nodad"])?;
        }
        link.ip(&["link", "set", TAP, "up"])?;
        // Frames leave from the first moment on, also when nobody answers yet.
        for address in MACHINE.both() {
            let address = address.to_string();
            let neighbour = ["to", &address, "lladdr", HARDWARE, "dev", TAP, "nud", "permanent"];
            link.ip(&[&["neighbour", "replace"][..], &neighbour].concat())?;
        }
        Ok(link)
    }

    /// Runs this closure inside.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                enter(&self.file)?;
                Ok(work())
            });
            worker.join().map_err(|_| anyhow!("the work in {} panicked", self.name))?
        })
    }

    /// Starts a thread that stays inside.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let file = self.file.try_clone().context("opening the namespace again")?;
        Ok(thread::spawn(move || {
            enter(&file)?;
            Ok(work())
        }))
    }

    /// Starts a program inside.
    pub(super) fn start(&self, command: &mut Command) -> Result<Child> {
        let shown = shell::show(command);
        self.inside(|| command.spawn())?.with_context(|| format!("cannot start `{shown}`"))
    }

    /// Runs a program inside to its end.
    pub(super) fn output(&self, command: &mut Command) -> Result<Output> {
        let shown = shell::show(command);
        self.inside(|| command.output())?.with_context(|| format!("cannot start `{shown}`"))
    }

    /// Gives this end one more address.
    pub(super) fn address(&self, address: &str) -> Result<()> {
        self.ip(&["address", "replace", address, "dev", TAP])
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], arguments].concat())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("not removed: namespace {}: {error:#}", self.name);
        }
    }
}

fn enter(file: &File) -> Result<()> {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering the namespace of the link")
}

/// Removes what runs left that were killed, with their machines.
fn sweep() {
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let run = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok());
        if run.is_none_or(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            continue;
        }
        let members = shell::answer(&mut shell::program("ip", ["netns", "pids", &name]));
        for pid in members.unwrap_or_default().lines() {
            drop(shell::quiet(&mut shell::program("kill", ["-KILL", pid])));
        }
        drop(ip(&["netns", "del", &name]));
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    shell::quiet(&mut shell::program("ip", arguments)).map(drop)
}
