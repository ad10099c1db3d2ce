//! The few bpf(2) calls that aya does not make as we need them; the only unsafe code of the agent.
//!
//! aya's `Xdp::attach` falls back to a netlink attachment when the kernel answers EINVAL. That
//! could replace another owner's program, and would vanish with the process. Here a link is made by
//! BPF_LINK_CREATE in the caller's mode, or not at all.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::{
    Pod,
    maps::{MapData, RingBuf},
};
use aya_obj::generated::{
    BPF_F_BEFORE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type, bpf_attr, bpf_cmd,
    bpf_insn, bpf_link_info, bpf_link_type, bpf_prog_info, bpf_prog_type,
};
use jit_common::{Family, Lookup};
use jit_proto::Hook;
use tokio::io::{Interest, unix::AsyncFd};

/// The loopback interface: its index, in every network namespace.
const LOOPBACK: u32 = 1;
/// Most programs at one place of an interface (`BPF_MPROG_MAX` of the kernel).
const MOST_PROGRAMS: usize = 64;

/// Reads what the kernel programs log.
pub type Logger = aya_log::EbpfLogger<&'static dyn log::Log>;

/// The kind of a link to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Generic XDP.
    XdpGeneric,
    /// Native XDP.
    XdpNative,
    /// TC ingress by tcx (Linux 6.6+), before all programs that are there.
    Tcx,
}

impl LinkKind {
    /// The kind of link that a hook attaches by; `None`: by none.
    pub const fn of(hook: Hook) -> Option<Self> {
        match hook {
            Hook::XdpNative => Some(Self::XdpNative),
            Hook::Tcx => Some(Self::Tcx),
            Hook::Clsact => None,
            Hook::XdpGeneric => Some(Self::XdpGeneric),
        }
    }
}

/// The kernel's information about a link to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The kernel's id of it.
    pub id: u32,
    /// Index of the interface it is on, in whatever network namespace that is; zero when it is
    /// detached or the interface is gone.
    pub interface: u32,
    /// Id of the program it runs.
    pub program: u32,
}

/// A program at the tcx ingress of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcxProgram {
    /// Its id.
    pub program: u32,
    /// Id of the link that it is there by; zero: by none.
    pub link: u32,
}

/// The kernel's information about a link of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnyLinkInfo {
    /// The kernel's id of it.
    pub id: u32,
    /// Whether it is attached to anything.
    pub attached: bool,
}

/// The kernel's information about a link of a socket guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardInfo {
    /// Inode of the network namespace that it is on; zero when it is detached.
    pub namespace: u64,
    /// Id of the program it runs.
    pub program: u32,
}

/// Attaches a program to an interface by a link.
pub fn attach(program: impl AsFd, interface: u32, kind: LinkKind) -> io::Result<OwnedFd> {
    let (attach_type, flags) = match kind {
        LinkKind::XdpGeneric => (bpf_attach_type::BPF_XDP, XDP_FLAGS_SKB_MODE),
        LinkKind::XdpNative => (bpf_attach_type::BPF_XDP, XDP_FLAGS_DRV_MODE),
        // Before no program in particular: before all of them.
        LinkKind::Tcx => (bpf_attach_type::BPF_TCX_INGRESS, BPF_F_BEFORE),
    };
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = number(program.as_fd());
    attr.link_create.__bindgen_anon_2.target_ifindex = interface;
    attr.link_create.attach_type = attach_type as u32;
    attr.link_create.flags = flags;
    let fd = call(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    Ok(own(fd))
}

/// Whether the kernel attaches XDP programs by links (Linux 5.9, commit aa8d3a716b59). Loopback has
/// no driver that could run one: with links the kernel says so (EOPNOTSUPP), without it does not
/// know what it is asked for (EINVAL). Nothing is attached either way.
pub fn has_xdp_links(program: impl AsFd) -> bool {
    let asked = attach(program, LOOPBACK, LinkKind::XdpNative);
    asked.map(drop).map_err(|error| error.raw_os_error()) != Err(Some(libc::EINVAL))
}

/// The programs at the tcx ingress of an interface, first to last.
pub fn tcx_programs(interface: u32) -> io::Result<Vec<TcxProgram>> {
    let mut programs = [0_u32; MOST_PROGRAMS];
    let mut links = [0_u32; MOST_PROGRAMS];
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_ifindex = interface;
    attr.query.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.link_ids = links.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = u32::try_from(MOST_PROGRAMS).unwrap_or(u32::MAX);
    call(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: this member is the one that BPF_PROG_QUERY writes.
    let count = unsafe { attr.query.__bindgen_anon_2.count };
    let count = usize::try_from(count).unwrap_or(MOST_PROGRAMS);
    Ok(programs
        .into_iter()
        .zip(links)
        .take(count)
        .map(|(program, link)| TcxProgram { program, link })
        .collect())
}

/// Attaches a socket guard to a network namespace by a link.
pub fn attach_guard(program: impl AsFd, namespace: impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = number(program.as_fd());
    attr.link_create.__bindgen_anon_2.target_fd = number(namespace.as_fd());
    attr.link_create.attach_type = bpf_attach_type::BPF_SK_LOOKUP as u32;
    let fd = call(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    Ok(own(fd))
}

/// The socket guards and other programs that are asked for look-ups in a network namespace.
pub fn lookup_programs(namespace: impl AsFd) -> io::Result<Vec<u32>> {
    // The largest possible number (`netns_bpf_max_progs` of the kernel).
    let mut programs = [0_u32; MOST_PROGRAMS];
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_fd = number(namespace.as_fd());
    attr.query.attach_type = bpf_attach_type::BPF_SK_LOOKUP as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = u32::try_from(MOST_PROGRAMS).unwrap_or(u32::MAX);
    call(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: this member is the one that BPF_PROG_QUERY writes.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt };
    let count = usize::try_from(count).unwrap_or(MOST_PROGRAMS);
    Ok(programs.into_iter().take(count).collect())
}

/// Replaces the program of a link; no packet sees a gap.
pub fn update_link(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = number(link.as_fd());
    attr.link_update.__bindgen_anon_1.new_prog_fd = number(program.as_fd());
    call(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link's program off its interface, now: a link whose last reference goes is taken off
/// only some time later. One that is off already is no error.
pub fn detach_link(link: impl AsFd) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = number(link.as_fd());
    match call(bpf_cmd::BPF_LINK_DETACH, &mut attr) {
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(error),
        _ => Ok(()),
    }
}

/// Pins a link on a BPF file system.
pub fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: this member is the one that BPF_OBJ_PIN reads.
    let pin = unsafe { &mut attr.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    pin.bpf_fd = number(object.as_fd());
    call(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: this member is the one that BPF_OBJ_GET reads.
    let pin = unsafe { &mut attr.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    let fd = call(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    Ok(own(fd))
}

/// Reads back where a link is and what it runs; an error when it is another kind of object.
pub fn link_info(link: impl AsFd, kind: LinkKind) -> io::Result<LinkInfo> {
    let xdp = kind != LinkKind::Tcx;
    let (of_type, otherwise) = if xdp {
        (bpf_link_type::BPF_LINK_TYPE_XDP, "not an XDP link")
    } else {
        (bpf_link_type::BPF_LINK_TYPE_TCX, "not a tcx link")
    };
    let info = info_of(link, of_type, otherwise)?;
    // SAFETY: the kernel fills the member for links of the type checked above.
    let interface = unsafe {
        if xdp { info.__bindgen_anon_1.xdp.ifindex } else { info.__bindgen_anon_1.tcx.ifindex }
    };
    Ok(LinkInfo { id: info.id, interface, program: info.prog_id })
}

/// Reads back where a link of a socket guard is and what it runs; an error when it is another kind
/// of object.
pub fn guard_info(link: impl AsFd) -> io::Result<GuardInfo> {
    let what = "not a link of a socket guard";
    let info = info_of(link, bpf_link_type::BPF_LINK_TYPE_NETNS, what)?;
    // SAFETY: the kernel fills this member for links of the type checked above.
    let netns = unsafe { info.__bindgen_anon_1.netns };
    if netns.attach_type != bpf_attach_type::BPF_SK_LOOKUP as u32 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(GuardInfo { namespace: netns.netns_ino.into(), program: info.prog_id })
}

/// Reads back which link it is and whether it is attached to anything; of the kinds that the agent
/// makes.
pub fn any_link_info(link: impl AsFd) -> io::Result<AnyLinkInfo> {
    let info = any_info(link)?;
    let is = |kind: bpf_link_type| info.type_ == kind as u32;
    // SAFETY: the kernel fills the member of the type that was compared.
    let place = unsafe {
        if is(bpf_link_type::BPF_LINK_TYPE_XDP) {
            info.__bindgen_anon_1.xdp.ifindex
        } else if is(bpf_link_type::BPF_LINK_TYPE_TCX) {
            info.__bindgen_anon_1.tcx.ifindex
        } else if is(bpf_link_type::BPF_LINK_TYPE_NETNS) {
            info.__bindgen_anon_1.netns.netns_ino
        } else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a link of the agent's"));
        }
    };
    Ok(AnyLinkInfo { id: info.id, attached: place != 0 })
}

fn info_of(link: impl AsFd, kind: bpf_link_type, otherwise: &str) -> io::Result<bpf_link_info> {
    let info = any_info(link)?;
    if info.type_ != kind as u32 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, otherwise));
    }
    Ok(info)
}

fn any_info(link: impl AsFd) -> io::Result<bpf_link_info> {
    // SAFETY: `bpf_link_info` is made of integers; all zero is valid.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = number(link.as_fd());
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).unwrap_or(u32::MAX);
    attr.info.info = (&raw mut info) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Loads a TC program of these instructions, which use no tables.
pub fn load_classifier(code: &[bpf_insn]) -> io::Result<OwnedFd> {
    load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, code)
}

/// Loads a program of these instructions, which use no tables.
pub(super) fn load(kind: bpf_prog_type, code: &[bpf_insn]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_3.prog_type = kind as u32;
    attr.__bindgen_anon_3.insns = code.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = u32::try_from(code.len()).unwrap_or(u32::MAX);
    attr.__bindgen_anon_3.license = c"Dual MIT/GPL".as_ptr() as u64;
    let fd = call(bpf_cmd::BPF_PROG_LOAD, &mut attr)?;
    Ok(own(fd))
}

/// Whether the kernel compiled a program; otherwise it interprets it.
pub(super) fn is_compiled(program: impl AsFd) -> io::Result<bool> {
    // SAFETY: `bpf_prog_info` is made of integers; all zero is valid.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = number(program.as_fd());
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).unwrap_or(u32::MAX);
    attr.info.info = (&raw mut info) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.jited_prog_len > 0)
}

/// Runs a TC program once on a frame (BPF_PROG_TEST_RUN), which it may change.
pub fn run_classifier(program: impl AsFd, frame: &mut [u8]) -> io::Result<()> {
    let before = frame.to_vec();
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let mut attr = zeroed();
    attr.test.prog_fd = number(program.as_fd());
    attr.test.data_in = before.as_ptr() as u64;
    attr.test.data_size_in = length;
    attr.test.data_out = frame.as_mut_ptr() as u64;
    attr.test.data_size_out = length;
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).map(drop)
}

/// Runs a socket guard once over a look-up (BPF_PROG_TEST_RUN, Linux 5.13+); whether it refuses it.
/// The kernel takes no interface here: the look-up comes in by none.
pub fn run_guard(program: impl AsFd, lookup: &Lookup) -> io::Result<bool> {
    let mut context = SkLookup::of(lookup);
    let mut attr = zeroed();
    attr.test.prog_fd = number(program.as_fd());
    attr.test.ctx_in = (&raw mut context) as u64;
    attr.test.ctx_size_in = u32::try_from(size_of::<SkLookup>()).unwrap_or(u32::MAX);
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: this member is the one that BPF_PROG_TEST_RUN fills.
    match unsafe { attr.test.retval } {
        SK_DROP => Ok(true),
        SK_PASS => Ok(false),
        other => Err(io::Error::other(format!("the guard answered {other}"))),
    }
}

/// `enum sk_action` (`linux/bpf.h`).
const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

/// `struct bpf_sk_lookup` (`linux/bpf.h`). Addresses and the remote port are in network byte order.
#[derive(Default)]
#[repr(C)]
struct SkLookup {
    cookie: u64,
    family: u32,
    protocol: u32,
    remote_ip4: u32,
    remote_ip6: [u32; 4],
    remote_port: u16,
    reserved: u16,
    local_ip4: u32,
    local_ip6: [u32; 4],
    local_port: u32,
    /// Zero: the kernel refuses anything else in a test run.
    ingress_ifindex: u32,
    padding: u32,
}
const _: () = assert!(size_of::<SkLookup>() == 72);

impl SkLookup {
    fn of(lookup: &Lookup) -> Self {
        let Lookup { source, destination, source_port, port, .. } = lookup;
        let common = Self {
            protocol: u32::from(port.protocol as u8),
            remote_port: source_port.to_be(),
            local_port: u32::from(port.port),
            ..Self::default()
        };
        let family = |number: i32| u32::try_from(number).unwrap_or_default();
        match source.family {
            Family::V4 => Self {
                family: family(libc::AF_INET),
                remote_ip4: source.words[0],
                local_ip4: destination.words[0],
                ..common
            },
            Family::V6 => Self {
                family: family(libc::AF_INET6),
                remote_ip6: source.words,
                local_ip6: destination.words,
                ..common
            },
        }
    }
}

/// Some entries of a table, one after another.
#[derive(Debug)]
pub struct Batch {
    /// The keys, each with the size that was asked for.
    pub keys: Vec<u8>,
    /// The values, in the order of the keys.
    pub values: Vec<u8>,
    /// Number of entries.
    pub count: usize,
    /// Where the next batch begins; `None`: there is none.
    pub next: Option<Vec<u8>>,
}

/// Reads up to `most` entries of a table with keys and values of these sizes, from a place that
/// the batch before gave, or from the beginning. (Linux 5.6 for hashes and arrays, 5.13 for tries.)
pub fn read_batch(
    table: impl AsFd,
    (key, value): (usize, usize),
    from: Option<&[u8]>,
    most: usize,
) -> io::Result<Batch> {
    let (mut keys, mut values) = (vec![0_u8; key * most], vec![0_u8; value * most]);
    // A hash writes the number of a bucket, a trie its last key.
    let mut next = vec![0_u8; key.max(size_of::<u64>())];
    let mut attr = zeroed();
    attr.batch.map_fd = number(table.as_fd());
    attr.batch.in_batch = from.map_or(0, |from| from.as_ptr() as u64);
    attr.batch.out_batch = next.as_mut_ptr() as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = u32::try_from(most).unwrap_or(u32::MAX);
    let next = match call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => Some(next),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
        Err(error) => return Err(error),
    };
    // SAFETY: this member is the one that BPF_MAP_LOOKUP_BATCH writes.
    let count = unsafe { attr.batch.count };
    let count = usize::try_from(count).unwrap_or(most).min(most);
    keys.truncate(key * count);
    values.truncate(value * count);
    Ok(Batch { keys, values, count, next })
}

/// Writes entries of a table: each key with the value at the same place, in their order. Returns how
/// many were written, and why no more. (Linux 5.6 for hashes and arrays, commits 057996380a42 and
/// c60f2d286177; 5.13 for tries, f56387c534cc.)
pub fn write_batch<K: Pod, V: Pod>(
    table: impl AsFd,
    keys: &[K],
    values: &[V],
) -> (usize, io::Result<()>) {
    let most = keys.len().min(values.len());
    let mut attr = zeroed();
    attr.batch.map_fd = number(table.as_fd());
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = u32::try_from(most).unwrap_or(u32::MAX);
    let result = call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop);
    // SAFETY: this member is the one that BPF_MAP_UPDATE_BATCH writes.
    let count = usize::try_from(unsafe { attr.batch.count }).unwrap_or(most);
    // The number may be as it was if not even the first one was tried (before Linux 6.7, commit
    // 06e5c999f102). One that fails is not among those that were written.
    let written = if result.is_err() && count >= most { 0 } else { count.min(most) };
    (written, result)
}

/// Removes an entry of a table by the bytes of its key. One that is gone is no error.
pub fn remove_key(table: impl AsFd, key: &[u8]) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = number(table.as_fd());
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    match call(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Waits for the records of the events' ring buffer.
pub fn watch_events(events: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring buffer owns its map, and with it the one descriptor that it ever answers
    // with, until it is dropped; it is not changed while it is registered.
    unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }.map_err(io::Error::from)
}

/// Waits for the lines of the kernel programs' log.
pub fn watch_log(log: Logger) -> io::Result<AsyncFd<Logger>> {
    // SAFETY: as above: the logger owns a ring buffer.
    unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) }.map_err(io::Error::from)
}

fn zeroed() -> bpf_attr {
    // SAFETY: `bpf_attr` is a union of integers; all zero is valid, and what the kernel expects of
    // fields that a command does not use.
    unsafe { mem::zeroed() }
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole `bpf_attr`; pointers in it were made from values that live until
    // the caller returns.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>())
    };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor (with O_CLOEXEC), and nobody else has
    // it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}
