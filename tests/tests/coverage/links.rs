//! The watch of the links: what it reports, what it costs, and how soon the gate is in force.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use jit_agent::kernel::{
    datapath::{observe::devices, rtnetlink::Header},
    netlink::{
        message::{LinkId, Message, messages},
        watch::LinkWatch,
    },
};
use jit_tests::{
    agent::{Site, opens},
    netns::Namespace,
};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
    netlink::SocketAddrNetlink,
    recv, socket_with,
    sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout},
};

use crate::path::{PROMISED, is_pinned};

/// This only ends a wait for what does not come: a busy machine may stand still for seconds.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn every_change_of_a_link_is_reported() {
    let (namespace, other) = (Namespace::new(), Namespace::new());
    let reports = watch(&namespace);
    let away = format!("link set v0 netns {}", other.name());
    let back = format!("link set v0 netns {}", namespace.name());
    for change in [
        "link add b0 type bridge",
        "link set b0 up",
        "link set b0 mtu 1400",
        "link set b0 down",
        "link set b0 name b1",
        "link delete b1",
        "link add v0 type veth peer name v1",
        &away,
        &back,
        "link delete v0",
    ] {
        while reports.try_recv().is_ok() {}
        let place = if change == back { &other } else { &namespace };
        place.ip_batch(&format!("{change}\n"));
        assert_eq!(reports.recv_timeout(PATIENCE), Ok(()), "{change}");
    }
}

/// The kernel drops what does not fit into the queue: the next read reports that.
#[test]
fn lost_messages_are_reported_as_a_change() {
    let namespace = Namespace::new();
    let watch = namespace.run(|| LinkWatch::open().unwrap());
    // The smallest size that the kernel accepts.
    set_socket_recv_buffer_size(&watch, 1).unwrap();
    let mut lines = String::new();
    for number in 0..200 {
        writeln!(lines, "link add v{number} type veth peer name w{number}").unwrap();
    }
    namespace.ip_batch(&lines);
    assert!(dropped(&namespace) > 0, "nothing was lost");
    let (sender, reports) = mpsc::channel();
    thread::spawn(move || {
        let error = watch.run(|_| {
            let _gone = sender.send(());
        });
        panic!("the watch ended: {error}");
    });
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(()));
    while reports.recv_timeout(Duration::from_millis(200)).is_ok() {}
    namespace.ip(&["link", "delete", "v7"]);
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(()), "the watch continues after the loss");
}

#[test]
fn hundreds_of_interfaces_are_listed_whole_while_others_come_and_go() {
    let namespace = Namespace::new();
    let mut lines = String::new();
    for number in 0..150 {
        writeln!(lines, "link add v{number} type veth peer name w{number}").unwrap();
    }
    namespace.ip_batch(&lines);
    let mut churn = String::new();
    for number in 0..100 {
        writeln!(churn, "link add x{number} type bridge").unwrap();
    }
    for number in 0..100 {
        writeln!(churn, "link delete x{number}").unwrap();
    }
    let began = Instant::now();
    let (lists, longest) = thread::scope(|scope| {
        let churning = scope.spawn(|| namespace.ip_batch(&churn));
        namespace.run(|| {
            let (mut lists, mut longest) = (0, Duration::ZERO);
            while lists < 10 || !churning.is_finished() {
                let asked = Instant::now();
                let all = devices().unwrap();
                longest = longest.max(asked.elapsed());
                let names: BTreeMap<_, _> =
                    all.iter().map(|interface| (interface.name.as_str(), interface)).collect();
                for number in 0..150 {
                    for end in ["v", "w"] {
                        let name = format!("{end}{number}");
                        let interface = names.get(name.as_str());
                        assert!(
                            interface.is_some_and(|found| found.header == Header::Ethernet),
                            "{name} is missing"
                        );
                    }
                }
                assert!(names["lo"].loopback);
                lists += 1;
            }
            (lists, longest)
        })
    });
    println!("{lists} lists of over 300 links in {:.1?}, longest {longest:.1?}", began.elapsed());
}

/// Time from the kernel's message about a new link to the gate on it, as another listener sees
/// both.
#[test]
fn a_new_link_is_gated_within_a_second_of_its_message() {
    const LINKS: usize = 50;
    for (others, hook) in [(0, "auto"), (200, "auto"), (0, "tc")] {
        let mut site = Site::new();
        let mut lines = String::new();
        for number in 0..others / 2 {
            writeln!(lines, "link add v{number} type veth peer name w{number}").unwrap();
        }
        site.host.ip_batch(&lines);
        let text = site.base("[\"*\"]", hook);
        site.write_config(&text.replace("[gate]", "[gate]\nsocket_guard = false"));
        site.start();
        let appeared = listen(&site.host);
        let mut times = Vec::new();
        for number in 0..LINKS {
            let name = format!("n{number}");
            site.host.ip(&[
                "link",
                "add",
                &name,
                "type",
                "veth",
                "peer",
                "name",
                &name,
                "netns",
                site.stranger.name(),
            ]);
            let (at, index) = loop {
                let (at, LinkId { index, name: new }) = appeared.recv_timeout(PATIENCE).unwrap();
                if new == name {
                    break (at, index);
                }
            };
            while !is_pinned(&site, index) {
                assert!(at.elapsed() < PROMISED, "{name} is not gated in time\n{}", site.log());
                thread::sleep(Duration::from_millis(1));
            }
            times.push(at.elapsed());
        }
        times.sort_unstable();
        println!(
            "by {hook}, beside {others} interfaces, from RTM_NEWLINK to the pinned gate, {LINKS} times: \
             median {:.1?}, longest {:.1?}",
            times[LINKS / 2],
            times[LINKS - 1]
        );
    }
}

/// The gate is on a link before the link is up, if there are some milliseconds in between: then
/// nobody gets in by it, also without the guard.
#[test]
fn a_link_that_is_made_before_it_is_up_never_opens_without_the_guard() {
    for hook in ["auto", "tc"] {
        let mut site = Site::new();
        let text = site.base("[\"*\"]", hook);
        site.write_config(&text.replace("[gate]", "[gate]\nsocket_guard = false"));
        site.start();
        for number in 0..10 {
            let (name, net) = (format!("n{number}"), format!("198.18.{number}"));
            site.host.ip_batch(&format!(
                "link add {name} type veth peer name {name} netns {}\naddr add {net}.1/24 dev {name}\n",
                site.stranger.name()
            ));
            site.stranger
                .ip_batch(&format!("addr add {net}.2/24 dev {name}\nlink set {name} up\n"));
            crate::path::wait_until_gated(&site, &name);
            let to = format!("{net}.1:22").parse().unwrap();
            let opened = thread::scope(|scope| {
                let knocking = scope.spawn(|| {
                    let end = Instant::now() + Duration::from_millis(500);
                    site.stranger.run(|| {
                        std::iter::repeat_with(|| opens(to, Duration::from_millis(50)))
                            .take_while(|_| Instant::now() < end)
                            .any(|opened| opened)
                    })
                });
                site.host.ip(&["link", "set", &name, "up"]);
                knocking.join().unwrap()
            });
            assert!(!opened, "{name} by {hook} was open\n{}", site.log());
        }
    }
}

/// Messages that the kernel dropped at netlink sockets of this namespace (netlink(7)).
fn dropped(namespace: &Namespace) -> u64 {
    let sockets = namespace.run(|| fs::read_to_string("/proc/thread-self/net/netlink").unwrap());
    let mut lines = sockets.lines().map(str::split_whitespace);
    let column = lines.next().unwrap().position(|name| name == "Drops").unwrap();
    lines.map(|mut line| line.nth(column).unwrap().parse::<u64>().unwrap()).sum()
}

/// The reports of a watch in this namespace.
fn watch(namespace: &Namespace) -> mpsc::Receiver<()> {
    let watch = namespace.run(|| LinkWatch::open().unwrap());
    let (sender, reports) = mpsc::channel();
    thread::spawn(move || {
        watch.run(|_| {
            let _gone = sender.send(());
        })
    });
    reports
}

/// Links that appear in this namespace, as a listener of the test's own sees them.
fn listen(namespace: &Namespace) -> mpsc::Receiver<(Instant, LinkId)> {
    const GROUP_LINK: u32 = 1;
    let socket = namespace.run(|| {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None).unwrap();
        bind(&socket, &SocketAddrNetlink::new(0, GROUP_LINK)).unwrap();
        socket
    });
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).unwrap();
    let (sender, appeared) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((_, length)) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()) {
            let at = Instant::now();
            for message in messages(&buffer[..length]) {
                if let Message::Changed(link) = message.unwrap()
                    && sender.send((at, link)).is_err()
                {
                    return;
                }
            }
        }
    });
    appeared
}
