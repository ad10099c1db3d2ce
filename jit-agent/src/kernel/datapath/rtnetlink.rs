//! Requests by rtnetlink: lists interfaces with their XDP programs, lists the classifiers of a
//! clsact qdisc, and adds and removes a classifier.
//!
//! Requests are built, and headers and single attributes parsed, by the crates netlink-packet-core
//! and netlink-packet-route. The list of an answer's attributes is walked here: the crates parse
//! all of them and refuse the whole answer for one that they do not understand, which would hide an
//! interface.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd as _},
    time::Duration,
};

use netlink_packet_core::{
    DecodeError, ErrorBuffer, ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkMessage, NlasIterator, Parseable as _,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkLayerType, LinkMessage, LinkXdp,
    },
    tc::{
        TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
        TcOption,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// Largest answer: the kernel fills at most 32 KiB at once, one interface alone may need more.
const ROOM: usize = 256 * 1024;
/// Longest wait for the kernel, which usually answers at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a list is read again that changed while it was read.
const RETRIES: u32 = 8;
/// Sizes of `struct ifinfomsg` and `struct tcmsg`, in front of the attributes.
const LINK_HEADER: usize = 16;
const TC_HEADER: usize = 20;
/// Attributes of `linux/if_link.h` and `linux/rtnetlink.h`.
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_IPVLAN_MODE: u16 = 1;
const IPVLAN_MODE_L3S: u16 = 2;
/// The bits of an attribute's type without its flags (`NLA_TYPE_MASK` of `linux/netlink.h`).
const NLA_TYPE_MASK: u16 = 0x3fff;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
/// Kinds of devices whose packets come in by the device that they are on top of, as they are.
const CHILDREN: [&str; 3] = ["ipvlan", "macvlan", "vlan"];
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// `ETH_P_ALL` in network byte order: classifiers see every protocol.
const EVERY_PROTOCOL: u32 = 0x0003_u16.to_be() as u32;
/// Our classifiers' handle ("ji").
const HANDLE: TcHandle = TcHandle { major: 0, minor: 0x6a69 };
/// Where our classifiers are hooked in: the ingress half of a clsact qdisc.
const INGRESS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
/// Priorities that are tried: another kind of classifier may hold one.
const PRIORITIES: std::ops::RangeInclusive<u32> = 1..=8;

/// What is in front of the IP header of a frame as the kernel programs see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// An Ethernet header.
    Ethernet,
    /// Nothing (tun, WireGuard, ipip, sit, GRE, PPP).
    None,
    /// Something that the programs do not read; the number is `ARPHRD_*` of `linux/if_arp.h`.
    Unknown(u16),
}

/// An interface on top of another one, where native XDP has surprising effects. TC on it also sees
/// the packets of the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A bond takes no interface with an XDP program once it has one itself (`bond_enslave` in
    /// `drivers/net/bonding/bond_main.c`).
    Bond,
    /// Azure's `hv_netvsc` hands the program to the virtual function below it and calls that done
    /// also where the function's driver cannot run it (`netvsc_vf_setxdp` in
    /// `drivers/net/hyperv/netvsc_bpf.c`).
    HyperV,
}

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What its frames begin with.
    pub header: Header,
    /// Why native XDP is not used on it, although it would take a program.
    pub unfit: Option<Unfit>,
    /// It has no gate: it is a loopback, or no packet from outside passes a program on it.
    pub loopback: bool,
    /// It is up: packets can come in by it.
    pub up: bool,
    /// It is a member of a VRF.
    pub in_vrf: bool,
    /// Index of the bridge, bond, team or VRF that it is a member of: its packets come in by that.
    pub member_of: Option<u32>,
    /// Index of the device that it is a child of (VLAN, macvlan, ipvlan): its packets come in there
    /// first. `None` also if that is in another network namespace.
    pub child_of: Option<u32>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Id of the program that runs as native XDP.
    pub native: Option<u32>,
    /// Id of the program that runs as generic XDP.
    pub generic: Option<u32>,
}

#[cfg(test)]
impl Device {
    /// An Ethernet device that is up, by itself and without a program.
    pub(crate) fn example(name: &str, index: u32) -> Self {
        Self {
            index,
            name: name.into(),
            header: Header::Ethernet,
            unfit: None,
            loopback: false,
            up: true,
            in_vrf: false,
            member_of: None,
            child_of: None,
            mtu: 1500,
            native: None,
            generic: None,
        }
    }
}

/// A BPF classifier at the ingress of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    handle: TcHandle,
    /// Priority and protocol, as the kernel writes them.
    info: u32,
    /// Its name; the name of ours has the pin directory in it.
    pub name: String,
    /// Id of its program.
    pub program: u32,
}

/// The classifiers at the ingress of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classifiers {
    /// Ours.
    pub ours: Option<Classifier>,
    /// Others run before ours.
    pub foreign_first: bool,
}

/// All interfaces of this network namespace.
pub fn devices() -> io::Result<Vec<Device>> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut devices = BTreeMap::new();
    for answer in ask(RouteNetlinkMessage::GetLink(request), NLM_F_DUMP)? {
        let device = with_driver(read_device(&answer).map_err(unreadable)?);
        devices.insert(device.index, device);
    }
    Ok(devices.into_values().collect())
}

/// One interface, by index; `None`: there is none.
pub fn device(index: u32) -> io::Result<Option<Device>> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    match ask(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
        Ok(answers) => {
            let device = answers.first().map(|answer| read_device(answer)).transpose();
            device.map(|device| device.map(with_driver)).map_err(unreadable)
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The classifiers at an interface's ingress; ours is the one with this name.
pub fn classifiers(index: u32, owner: &str) -> io::Result<Classifiers> {
    let message = RouteNetlinkMessage::GetTrafficFilter(filter(index, TcHandle::UNSPEC, 0)?);
    let mut found = Classifiers::default();
    for answer in ask(message, NLM_F_DUMP)? {
        match read_classifier(&answer).map_err(unreadable)? {
            Read::Bpf(classifier) if classifier.name == owner => {
                found.ours.get_or_insert(classifier);
            }
            Read::Bpf(_) | Read::Other if found.ours.is_none() => found.foreign_first = true,
            Read::Bpf(_) | Read::Other | Read::Head => {}
        }
    }
    found.foreign_first &= found.ours.is_some();
    Ok(found)
}

/// Puts a program at an interface's ingress as the first classifier.
pub fn add_classifier(index: u32, program: impl AsFd, owner: &str) -> io::Result<()> {
    let mut qdisc = TcMessage::with_index(number(index)?);
    qdisc.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.attributes.push(TcAttribute::Kind("clsact".into()));
    let create = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    match ask(RouteNetlinkMessage::NewQueueDiscipline(qdisc), create) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
        _ => {}
    }
    let mut refused = io::Error::from_raw_os_error(libc::EEXIST);
    for priority in PRIORITIES {
        let info = priority << 16 | EVERY_PROTOCOL;
        let message = with_program(filter(index, HANDLE, info)?, &program, owner)?;
        match ask(RouteNetlinkMessage::NewTrafficFilter(message), create) {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::EINVAL)) => {
                refused = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// Replaces the program of a classifier of ours; no packet sees a gap.
pub fn replace_classifier(index: u32, old: &Classifier, program: impl AsFd) -> io::Result<()> {
    let message = with_program(filter(index, old.handle, old.info)?, program, &old.name)?;
    let replace = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    ask(RouteNetlinkMessage::NewTrafficFilter(message), replace).map(drop)
}

/// Takes a classifier off; one that is gone is no error.
pub fn remove_classifier(index: u32, old: &Classifier) -> io::Result<()> {
    let mut message = filter(index, old.handle, old.info)?;
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.into()));
    match ask(RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn filter(index: u32, handle: TcHandle, info: u32) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(number(index)?);
    message.header = TcHeader { handle, parent: INGRESS, info, ..message.header };
    Ok(message)
}

fn with_program(mut message: TcMessage, program: impl AsFd, owner: &str) -> io::Result<TcMessage> {
    let fd = u32::try_from(program.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let options = [
        TcFilterBpfOption::ProgFd(fd),
        TcFilterBpfOption::ProgName(owner.into()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.into()),
        TcAttribute::Options(options.map(TcOption::Bpf).into()),
    ];
    Ok(message)
}

/// Adds the driver of a device on a bus, which only sysfs has. (Netlink has the bus since Linux
/// 5.14.)
fn with_driver(device: Device) -> Device {
    let driver = fs::read_link(format!("/sys/class/net/{}/device/driver", device.name));
    let hyper_v = driver.is_ok_and(|driver| driver.ends_with("hv_netvsc"));
    Device { unfit: device.unfit.or(hyper_v.then_some(Unfit::HyperV)), ..device }
}

fn read_device(bytes: &[u8]) -> Result<Device, DecodeError> {
    let LinkHeader { index, link_layer_type, flags, .. } = LinkHeader::parse(bytes)?;
    let mut device = Device {
        index,
        name: String::new(),
        header: header(link_layer_type),
        unfit: None,
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
        in_vrf: false,
        member_of: None,
        child_of: None,
        mtu: 0,
        native: None,
        generic: None,
    };
    let (mut link, mut elsewhere, mut child) = (None, false, false);
    for attribute in NlasIterator::new(bytes.get(LINK_HEADER..).unwrap_or_default()) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_LINK => link = value.try_into().map(u32::from_ne_bytes).ok(),
            IFLA_LINK_NETNSID => elsewhere = true,
            IFLA_MASTER => device.member_of = value.try_into().map(u32::from_ne_bytes).ok(),
            IFLA_IFNAME => device.name = text(value),
            IFLA_MTU => device.mtu = value.try_into().map_or(0, u32::from_ne_bytes),
            IFLA_LINKINFO => {
                let LinkInfo { kind, data, member_of } = link_info(value)?;
                device.unfit = (kind == "bond").then_some(Unfit::Bond);
                device.loopback |= passed_by(&kind, &data)?;
                device.in_vrf = member_of == "vrf";
                child = CHILDREN.contains(&kind.as_str());
            }
            IFLA_XDP => {
                for nested in NlasIterator::new(value) {
                    match LinkXdp::parse(&nested?)? {
                        LinkXdp::DrvProgId(id) => device.native = Some(id),
                        LinkXdp::SkbProgId(id) => device.generic = Some(id),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    device.child_of = link.filter(|_| child && !elsewhere);
    Ok(device)
}

/// What kind of device it is.
#[derive(Default)]
struct LinkInfo {
    kind: String,
    /// Attributes of this kind alone.
    data: Vec<u8>,
    /// The kind of the device that it is a member of.
    member_of: String,
}

fn link_info(value: &[u8]) -> Result<LinkInfo, DecodeError> {
    let mut info = LinkInfo::default();
    for nested in NlasIterator::new(value) {
        let nested = nested?;
        match nested.kind() & NLA_TYPE_MASK {
            IFLA_INFO_KIND => info.kind = text(nested.value()),
            IFLA_INFO_DATA => info.data = nested.value().to_vec(),
            IFLA_INFO_SLAVE_KIND => info.member_of = text(nested.value()),
            _ => {}
        }
    }
    Ok(info)
}

/// Whether packets from outside pass a program on such a device by. Those of a VRF are judged on its
/// members; only what the host sends itself inside the VRF comes in by the device (`vrf_l3_rcv` in
/// `drivers/net/vrf.c`). Those of an ipvlan child in mode L3S are judged on the parent: the child
/// gets them after routing (`drivers/net/ipvlan/ipvlan_l3s.c`).
fn passed_by(kind: &str, data: &[u8]) -> Result<bool, DecodeError> {
    if kind != "ipvlan" {
        return Ok(kind == "vrf");
    }
    for nested in NlasIterator::new(data) {
        let nested = nested?;
        if nested.kind() == IFLA_IPVLAN_MODE {
            let mode = nested.value().try_into().map(u16::from_ne_bytes);
            return Ok(mode.is_ok_and(|mode| mode == IPVLAN_MODE_L3S));
        }
    }
    Ok(false)
}

fn header(kind: LinkLayerType) -> Header {
    match kind {
        LinkLayerType::Ether => Header::Ethernet,
        LinkLayerType::None
        | LinkLayerType::Ip6gre
        | LinkLayerType::Ipgre
        | LinkLayerType::Ppp
        | LinkLayerType::Rawip
        | LinkLayerType::Sit
        | LinkLayerType::Sixlowpan
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6 => Header::None,
        other => Header::Unknown(other.into()),
    }
}

/// One answer of a list of classifiers.
enum Read {
    /// A BPF classifier.
    Bpf(Classifier),
    /// The head of a priority, which is no classifier.
    Head,
    /// A classifier of another kind.
    Other,
}

fn read_classifier(bytes: &[u8]) -> Result<Read, DecodeError> {
    let TcHeader { handle, info, .. } = TcHeader::parse(bytes)?;
    if handle == TcHandle::UNSPEC {
        return Ok(Read::Head);
    }
    let mut kind = String::new();
    let mut classifier = Classifier { handle, info, name: String::new(), program: 0 };
    for attribute in NlasIterator::new(bytes.get(TC_HEADER..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            TCA_KIND => kind = text(attribute.value()),
            TCA_OPTIONS if kind == TcFilterBpf::KIND => {
                for option in NlasIterator::new(attribute.value()) {
                    let option = option?;
                    match TcFilterBpfOption::parse(&option)? {
                        TcFilterBpfOption::ProgName(name) => classifier.name = name,
                        TcFilterBpfOption::ProgId(id) => classifier.program = id,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(if kind == TcFilterBpf::KIND { Read::Bpf(classifier) } else { Read::Other })
}

/// Sends a request and returns the answers' bytes. If a list changed while it was read, it is read
/// again. If it changes too fast, everything that was seen is returned: an interface that is gone
/// by then does no harm, but a missing one would.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Vec<u8>>> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut seen = Vec::new();
    for _ in 0..RETRIES {
        let (whole, answers) = ask_once(&bytes)?;
        if whole {
            return Ok(answers);
        }
        seen.extend(answers);
    }
    Ok(seen)
}

/// The answers, and whether nothing changed meanwhile.
fn ask_once(request: &[u8]) -> io::Result<(bool, Vec<Vec<u8>>)> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    let mut answers = Vec::new();
    let mut whole = true;
    loop {
        let mut buffer = Vec::with_capacity(ROOM);
        let length = socket.recv(&mut buffer, libc::MSG_TRUNC)?;
        if length > buffer.len() {
            return Err(io::Error::other(format!("an answer of {length} bytes does not fit")));
        }
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(unreadable)?;
            whole &= message.flags() & NLM_F_DUMP_INTR == 0;
            match message.message_type() {
                NLMSG_DONE => return Ok((whole, answers)),
                NLMSG_ERROR => {
                    let error = ErrorBuffer::new_checked(&message.payload())
                        .and_then(|buffer| ErrorMessage::parse(&buffer))
                        .map_err(unreadable)?;
                    return if error.code.is_none() {
                        Ok((whole, answers))
                    } else {
                        Err(error.to_io())
                    };
                }
                _ => answers.push(message.payload().to_vec()),
            }
            let length = usize::try_from(message.length()).map_err(io::Error::other)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn number(index: u32) -> io::Result<i32> {
    i32::try_from(index).map_err(io::Error::other)
}

fn unreadable(error: DecodeError) -> io::Error {
    io::Error::other(format!("an answer of the kernel cannot be read: {error}"))
}
