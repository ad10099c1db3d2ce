//! A way from the stranger to a port 22, and the assertions about it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use jit_common::ABI_VERSION;
use jit_tests::{
    agent::{PATIENCE, Site, address},
    netns::Namespace,
};

pub(crate) const LONG: Duration = Duration::from_secs(600);
/// Longest time until an interface that appears is gated.
pub(crate) const PROMISED: Duration = Duration::from_secs(1);
/// Longest wait until a way without a gate opens: routes, neighbours and ports need some time.
const SETTLED: Duration = Duration::from_secs(30);

/// The stranger's addresses and the host's, of both families.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub(crate) from: [&'static str; 2],
    pub(crate) to: [&'static str; 2],
}

/// The gate's settings in the configuration.
pub(crate) struct Gate<'a> {
    pub(crate) interfaces: &'a str,
    pub(crate) exclude: &'a str,
    pub(crate) guard: bool,
}

impl Gate<'_> {
    /// The packet gate alone, on everything.
    pub(crate) const PACKETS: Self = Self { interfaces: "[\"*\"]", exclude: "[]", guard: false };

    pub(crate) fn configure(&self, site: &Site) {
        let Self { interfaces, exclude, guard } = self;
        let gate = format!("[gate]\nsocket_guard = {guard}\nexclude = {exclude}");
        site.write_config(&site.base(interfaces, "auto").replace("[gate]", &gate));
    }
}

impl Path {
    /// The greeting at the end of the way in each family, if there is one.
    pub(crate) fn greetings(&self, site: &Site, within: Duration) -> [Option<[u8; 2]>; 2] {
        thread::scope(|scope| {
            let attempts = [0, 1].map(|family| {
                let to = address(self.to, family, 22);
                scope.spawn(move || site.stranger.run(|| greeting(to, within)))
            });
            attempts.map(|attempt| attempt.join().unwrap())
        })
    }

    /// Fails unless the way opens, over both families.
    #[track_caller]
    pub(crate) fn assert_open(&self, site: &Site, why: &str) {
        let end = Instant::now() + SETTLED;
        loop {
            let greetings = self.greetings(site, PATIENCE);
            if greetings.iter().all(Option::is_some) {
                return;
            }
            assert!(Instant::now() < end, "not open {why}: {greetings:?}\n{}", site.log());
        }
    }

    /// Fails unless the way is closed, over both families.
    #[track_caller]
    pub(crate) fn assert_closed(&self, site: &Site, why: &str) {
        let greetings = self.greetings(site, PATIENCE);
        assert_eq!(greetings, [None, None], "open {why}\n{}", site.log());
    }

    /// With the running agent: closed to the stranger, open with a grant, and closed again.
    #[track_caller]
    pub(crate) fn assert_gated(&self, site: &Site, why: &str) {
        self.assert_closed(site, &format!("without a grant, {why}"));
        site.admit(&self.from, LONG);
        self.assert_open(site, &format!("with a grant, {why}"));
        assert_eq!(site.revoke_all(), 1);
        self.assert_closed(site, &format!("after the revocation, {why}"));
    }

    /// Fails unless the way is open without an agent, and gated by each of these gates.
    #[track_caller]
    pub(crate) fn assert_gated_by(&self, site: &mut Site, gates: &[(&str, Gate<'_>)]) {
        self.assert_open(site, "without an agent");
        for (name, gate) in gates {
            gate.configure(site);
            site.start();
            self.assert_gated(site, name);
            site.end(rustix::process::Signal::TERM);
            assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
            self.assert_open(site, "after detach");
        }
    }
}

/// The greeting at an address.
pub(crate) fn greeting(to: SocketAddr, within: Duration) -> Option<[u8; 2]> {
    let mut stream = TcpStream::connect_timeout(&to, within).ok()?;
    stream.set_read_timeout(Some(SETTLED)).unwrap();
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting).ok().map(|()| greeting)
}

/// Starts a TCP server in a namespace that runs until the test ends: it greets, then echoes.
pub(crate) fn serve(namespace: &Namespace, port: u16, greeting: [u8; 2]) {
    let listener = namespace.run(|| TcpListener::bind(("::", port)).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                drop(
                    stream
                        .write_all(&greeting)
                        .and_then(|()| std::io::copy(&mut stream, &mut back)),
                );
            });
        }
    });
}

/// Waits until the gate is pinned on an interface, at most [`PROMISED`]. It does not ask `status`,
/// which would make the agent check its links.
#[track_caller]
pub(crate) fn wait_until_gated(site: &Site, interface: &str) -> Duration {
    let began = Instant::now();
    let index = site.host.index(interface);
    while !is_pinned(site, index) {
        assert!(began.elapsed() < PROMISED, "{interface} is not gated in time\n{}", site.log());
        thread::sleep(Duration::from_millis(1));
    }
    began.elapsed()
}

/// Whether there is a pinned link for the interface of this index.
pub(crate) fn is_pinned(site: &Site, index: u32) -> bool {
    let links = site.pins().join(format!("v{ABI_VERSION}/links"));
    let end = format!("-{index}");
    fs::read_dir(links)
        .into_iter()
        .flatten()
        .flatten()
        .any(|pin| pin.file_name().to_string_lossy().ends_with(&end))
}

/// Makes a veth pair between host and stranger, with addresses and up, by one call of `ip`.
pub(crate) fn connect(site: &Site, ours: &str, theirs: &str, path: &Path) {
    let [from_v4, from_v6] = path.from;
    let [to_v4, to_v6] = path.to;
    site.host.ip_batch(&format!(
        "link add {ours} type veth peer name {theirs} netns {}\n\
         addr add {to_v4}/24 dev {ours}\n\
         addr add {to_v6}/64 dev {ours} nodad\n\
         link set {ours} up\n",
        site.stranger.name()
    ));
    site.stranger.ip_batch(&format!(
        "addr add {from_v4}/24 dev {theirs}\n\
         addr add {from_v6}/64 dev {theirs} nodad\n\
         link set {theirs} up\n"
    ));
}
