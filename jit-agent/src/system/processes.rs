//! The processes of this host, as far as this process may see them (proc(5)), and which of them have
//! a socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

/// The kernel cuts a process's name to this number of bytes.
const NAME: usize = 15;
/// The most bytes of a command line that are kept.
const COMMAND_LINE: usize = 4096;
/// The most processes on the way up to the first.
const MOST_ANCESTORS: usize = 64;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// Its name, as the kernel has it.
    pub name: String,
    /// Its command line.
    pub arguments: Vec<String>,
}

impl Process {
    /// Whether this is the program's name: in the kernel, or on the command line.
    pub fn is(&self, program: &str) -> bool {
        let first = self.arguments.first().map(Path::new);
        let called = first.and_then(Path::file_name).is_some_and(|name| name == program);
        called || self.name == program.get(..NAME).unwrap_or(program)
    }

    fn read(directory: &Path, id: u32) -> io::Result<Self> {
        let name = fs::read_to_string(directory.join("comm"))?;
        let mut line = fs::read(directory.join("cmdline")).unwrap_or_default();
        line.truncate(COMMAND_LINE);
        let parts = line.split(|byte| *byte == 0).filter(|part| !part.is_empty());
        Ok(Self {
            id,
            name: name.trim_end().to_owned(),
            arguments: parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect(),
        })
    }
}

/// All processes below a directory such as `/proc`, by their ids.
///
/// # Errors
/// The directory cannot be read.
pub fn all(proc: &Path) -> io::Result<Vec<Process>> {
    // One that ends meanwhile is passed over.
    let read = |id: u32| Process::read(&proc.join(id.to_string()), id).ok();
    Ok(ids(proc)?.into_iter().filter_map(read).collect())
}

/// Whether a process is in this process's network namespace; yes if this cannot be seen.
pub fn shares_network(proc: &Path, id: u32) -> bool {
    let namespace = |process: &str| fs::read_link(proc.join(process).join("ns/net")).ok();
    let (own, other) = (namespace("self"), namespace(&id.to_string()));
    own.is_none() || other.is_none() || own == other
}

/// The process that has each of these sockets, by the socket's inode. Only root sees the sockets of
/// all processes.
///
/// # Errors
/// As [`all`].
pub fn holders(proc: &Path, sockets: &BTreeSet<u32>) -> io::Result<BTreeMap<u32, Process>> {
    let mut holders: BTreeMap<u32, Process> = BTreeMap::new();
    for id in ids(proc)? {
        let directory = proc.join(id.to_string());
        let held = sockets_of(&directory).filter(|inode| sockets.contains(inode));
        // The service manager keeps a copy of the sockets that it hands to services.
        let held: Vec<_> =
            held.filter(|inode| holders.get(inode).is_none_or(|known| known.id == 1)).collect();
        if !held.is_empty()
            && let Ok(process) = Process::read(&directory, id)
        {
            holders.extend(held.into_iter().map(|inode| (inode, process.clone())));
        }
    }
    Ok(holders)
}

/// The sockets, by their inodes, of a process and of the processes that started it, up to the first of
/// the system: of the session that a command is typed in.
pub fn sockets_of_session(proc: &Path, id: u32) -> BTreeSet<u32> {
    let mut sockets = BTreeSet::new();
    let mut next = Some(id);
    for _ in 0..MOST_ANCESTORS {
        let Some(id) = next.filter(|id| *id > 1) else { break };
        let directory = proc.join(id.to_string());
        sockets.extend(sockets_of(&directory));
        next = parent(&directory);
    }
    sockets
}

/// The process that started one: the second field after the name, which may have spaces and brackets.
fn parent(directory: &Path) -> Option<u32> {
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn ids(proc: &Path) -> io::Result<Vec<u32>> {
    let names = fs::read_dir(proc)?.flatten().map(|entry| entry.file_name());
    let mut ids: Vec<u32> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The inodes of a process's sockets.
fn sockets_of(directory: &Path) -> impl Iterator<Item = u32> {
    let descriptors = fs::read_dir(directory.join("fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn the_process_that_has_a_socket_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let path = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let inode = u32::try_from(fs::metadata(path).unwrap().ino()).unwrap();
        let found = holders(Path::new("/proc"), &[inode].into()).unwrap();
        assert_eq!(found[&inode].id, std::process::id());
        let own = all(Path::new("/proc")).unwrap();
        let own = own.iter().find(|process| process.id == std::process::id()).unwrap();
        let called = Path::new(&own.arguments[0]).file_name().unwrap().to_str().unwrap();
        assert!(own.is(called) && own.is(&own.name) && !own.is("other"), "{own:?}");
        assert!(shares_network(Path::new("/proc"), own.id));
    }

    #[test]
    fn the_sockets_of_a_session_are_those_on_the_way_up_without_the_first_process() {
        let proc = tempfile::tempdir().unwrap();
        for (id, parent, name) in [
            (1, 0, "systemd"),
            (700, 1, "sshd"),
            (701, 700, "a) S 9 (b"),
            (702, 701, "jit-agent"),
            (703, 1, "sshd"),
        ] {
            let fd = proc.path().join(format!("{id}/fd"));
            fs::create_dir_all(&fd).unwrap();
            fs::write(
                proc.path().join(format!("{id}/stat")),
                format!("{id} ({name}) S {parent} 1 1"),
            )
            .unwrap();
            std::os::unix::fs::symlink(format!("socket:[{}]", 1000 + id), fd.join("3")).unwrap();
        }
        assert_eq!(sockets_of_session(proc.path(), 702), [1700, 1701, 1702].into());
        fs::write(proc.path().join("700/stat"), "700 (sshd) S 702 1 1").unwrap();
        assert_eq!(sockets_of_session(proc.path(), 702).len(), 3, "a circle ends");
    }

    #[test]
    fn a_service_has_the_socket_that_its_manager_keeps_a_copy_of() {
        let proc = tempfile::tempdir().unwrap();
        for (id, name) in [(1, "systemd"), (700, "sshd"), (2, "kthreadd")] {
            let fd = proc.path().join(format!("{id}/fd"));
            fs::create_dir_all(&fd).unwrap();
            fs::write(proc.path().join(format!("{id}/comm")), format!("{name}\n")).unwrap();
            let target = if id == 2 { "pipe:[5]" } else { "socket:[5]" };
            std::os::unix::fs::symlink(target, fd.join("3")).unwrap();
        }
        let found = holders(proc.path(), &[5].into()).unwrap();
        assert_eq!(found[&5].name, "sshd");
        assert_eq!(all(proc.path()).unwrap().len(), 3);
    }

    #[test]
    fn a_long_name_is_known_by_its_begin() {
        let process = Process { id: 7, name: "amazon-ssm-agen".into(), arguments: Vec::new() };
        assert!(process.is("amazon-ssm-agent") && !process.is("amazon-ssm"));
    }
}
