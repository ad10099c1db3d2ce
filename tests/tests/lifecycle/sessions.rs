//! What happens to sessions at the end of their grant. With `cut` both ends are closed. With
//! `drain` they continue. With real sockets: what the host's kernel lists is what counts.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use jit_proto::v1::{self, revoke_request::What};
use jit_tests::{
    agent::{CLIENT, PATIENCE, STRANGER, Site, TO_CLIENT, TO_STRANGER, address},
    netns::Namespace,
    sockets, sys,
};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(600);
/// Longest time until both ends are closed.
const HEARD: Duration = Duration::from_secs(2);
/// A port with `cut`, and one with `drain`.
pub(crate) const CUT: u16 = 2222;
pub(crate) const DRAIN: u16 = 2223;

/// The configuration of both ports.
pub(crate) fn sections() -> String {
    let section = |port, sessions| {
        format!(
            "[[port]]\nport = {port}\nprotocol = \"tcp\"\nsessions = \"{sessions}\"\n\
             sources = [\"0.0.0.0/0\", \"::/0\"]\n"
        )
    };
    [section(CUT, "cut"), section(DRAIN, "drain")].concat()
}

/// A host with both ports and a running agent.
fn site() -> Site {
    let mut site = Site::new();
    site.configure(&sections());
    site.start();
    site
}

/// A grant for both ports.
pub(crate) fn grant(site: &Site, sources: &[&str], lasts: Duration) -> v1::Grant {
    let ports = [CUT, DRAIN].map(|port| v1::PortRange {
        protocol: v1::Protocol::Tcp.into(),
        first: port.into(),
        last: port.into(),
    });
    v1::Grant { ports: ports.into(), ..site.grant(sources, lasts) }
}

fn admit(site: &Site, sources: &[&str], lasts: Duration) -> v1::Outcome {
    site.push(site.sign(&grant(site, sources, lasts))).expect("an accepted grant")
}

fn revoke(site: &Site, outcome: &v1::Outcome) {
    assert_eq!(site.revoke(What::GrantId(outcome.grant_id.clone()), false).revoked, 1);
}

/// Both ends of a session.
pub(crate) struct Session {
    client: TcpStream,
    server: TcpStream,
}

impl Session {
    pub(crate) fn open(site: &Site, listener: &TcpListener, family: usize, port: u16) -> Self {
        Self::from(&site.client, listener, address(TO_CLIENT, family, port))
    }

    fn from(namespace: &Namespace, listener: &TcpListener, to: SocketAddr) -> Self {
        let client =
            namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE).expect("a connection"));
        let (server, _) = listener.accept().unwrap();
        let mut session = Self { client, server };
        assert!(session.carries(), "a session that was just opened");
        session
    }

    /// Whether a byte comes in from the client within a moment.
    fn carries(&mut self) -> bool {
        self.server.set_read_timeout(Some(sockets::SILENCE)).unwrap();
        self.client.write_all(b"x").is_ok() && self.server.read(&mut [0]).is_ok_and(|n| n == 1)
    }

    /// Fails unless both ends are closed within this time. Returns the peer's time.
    #[track_caller]
    pub(crate) fn assert_cut_within(&mut self, time: Duration) -> Duration {
        let began = Instant::now();
        self.client.set_read_timeout(Some(time)).unwrap();
        let heard = self.client.read(&mut [0]).expect_err("no end of file").kind();
        assert_eq!(heard, ErrorKind::ConnectionReset, "the peer, in {:?}", began.elapsed());
        let took = began.elapsed();
        self.server.set_read_timeout(Some(time)).unwrap();
        // The bytes that came in before are still there.
        let error = loop {
            match self.server.read(&mut [0; 64]) {
                Ok(1..) => {}
                Ok(0) => panic!("the service sees an ordinary end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "the service");
        took
    }
}

pub(crate) fn listen(site: &Site, port: u16) -> TcpListener {
    site.host.run(|| TcpListener::bind(("::", port)).unwrap())
}

/// TCP sockets of a namespace with this local port, in these states of `/proc/net/tcp`.
pub(crate) fn sockets_of(namespace: &Namespace, port: u16, states: &[&str]) -> usize {
    let local = format!(":{port:04X}");
    let tables = namespace.run(|| {
        ["tcp", "tcp6"]
            .map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap())
    });
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines
        .filter(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words[1].ends_with(&local) && states.contains(&words[3])
        })
        .count()
}

/// Sockets in every state but listening and time-wait.
fn open_sockets(namespace: &Namespace, port: u16) -> usize {
    sockets_of(namespace, port, &["01", "02", "03", "04", "05", "08", "09", "0B", "0C"])
}

/// Number of cut sessions in the audit.
fn cut_in_audit(site: &Site) -> u64 {
    let output = site.run(&["audit", "show", "--json", "--code", "C003"]);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| record["sessions"].as_u64().unwrap())
        .sum()
}

#[test]
fn a_revocation_closes_both_ends_of_a_cut_session_and_drained_sessions_continue() {
    let site = site();
    let (cutting, draining) = (listen(&site, CUT), listen(&site, DRAIN));
    admit(&site, &CLIENT, LONG);
    let mut cut = [0, 1].map(|family| Session::open(&site, &cutting, family, CUT));
    let mut drained = [0, 1].map(|family| Session::open(&site, &draining, family, DRAIN));
    assert_eq!(open_sockets(&site.host, CUT), 2);
    let began = Instant::now();
    assert_eq!(site.revoke_all(), 1);
    for session in &mut cut {
        session.assert_cut_within(HEARD);
    }
    println!("both ends were closed after the revocation within {:?}", began.elapsed());
    assert_eq!(open_sockets(&site.host, CUT), 0);
    for session in &mut drained {
        assert!(session.carries(), "a drained session continues");
    }
    assert_eq!(cut_in_audit(&site), 2);
    let (status, code) = site.status();
    assert_eq!((code, &status["problems"]), (0, &serde_json::json!([])), "{status:#}");
}

#[test]
fn cut_sessions_end_with_their_grant() {
    let site = site();
    let cutting = listen(&site, CUT);
    let lasts = Duration::from_secs(2);
    let granted = Instant::now();
    admit(&site, &CLIENT, lasts);
    let mut sessions = [0, 1].map(|family| Session::open(&site, &cutting, family, CUT));
    for session in &mut sessions {
        session.assert_cut_within(lasts + HEARD);
    }
    let took = granted.elapsed().saturating_sub(lasts);
    println!("both ends were closed after the end within {took:?}");
    assert!(took < HEARD, "{took:?}");
    assert_eq!(open_sockets(&site.host, CUT), 0);
}

/// Somebody must get out now: on a port that drains, by both gates and by the guard alone. Another
/// guest's sessions stay.
#[test]
fn an_order_to_cut_ends_drained_sessions_and_no_others() {
    for interfaces in ["[\"*\"]", "[\"s0\"]"] {
        let mut site = Site::new();
        site.write_config(&[site.base(interfaces, "auto"), sections()].concat());
        site.start();
        let draining = listen(&site, DRAIN);
        let outcome = admit(&site, &CLIENT, LONG);
        admit(&site, &STRANGER, LONG);
        let mut theirs = [0, 1].map(|family| Session::open(&site, &draining, family, DRAIN));
        let mut others = [0, 1].map(|family| {
            Session::from(&site.stranger, &draining, address(TO_STRANGER, family, DRAIN))
        });
        let id = What::GrantId(outcome.grant_id);
        let answer = site.revoke(id.clone(), false);
        assert_eq!((answer.revoked, answer.sessions_open, answer.sessions_ended), (1, 2, 0));
        assert!(theirs.iter_mut().all(Session::carries), "{interfaces}: the port drains");
        let answer = site.revoke(id, true);
        assert_eq!((answer.sessions_open, answer.sessions_ended), (0, 2), "{interfaces}");
        assert_eq!(answer.warning, "");
        assert_eq!(open_sockets(&site.host, DRAIN), 2, "{interfaces}: when it is answered");
        for session in &mut theirs {
            session.assert_cut_within(HEARD);
        }
        assert!(others.iter_mut().all(Session::carries), "{interfaces}: another grant's");
        let answer = site.revoke(What::All(true), true);
        assert_eq!((answer.revoked, answer.sessions_open, answer.sessions_ended), (1, 0, 2));
        for session in &mut others {
            session.assert_cut_within(HEARD);
        }
    }
}

/// The agent cannot close both ends, and says so. The gate alone stops the packets of sessions that
/// have ended.
#[test]
fn without_a_list_of_sockets_the_gate_alone_cuts_and_status_says_so() {
    let mut site = Site::new();
    site.configure(&sections());
    let mut command = site.command(&["run"]);
    sys::without_sock_diag(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let agent = site.host.start(&mut command);
    site.adopt_process(agent);
    let reported = |site: &Site| {
        let (status, code) = site.status();
        let said = "cannot open a socket of NETLINK_SOCK_DIAG: Protocol not supported";
        code == 1 && status["problems"].to_string().contains(said)
    };
    assert!(reported(&site), "from the start");
    let (cutting, draining) = (listen(&site, CUT), listen(&site, DRAIN));
    admit(&site, &CLIENT, LONG);
    let mut cut = [0, 1].map(|family| Session::open(&site, &cutting, family, CUT));
    let mut drained = Session::open(&site, &draining, 0, DRAIN);
    assert_eq!(site.revoke_all(), 1);
    for session in &mut cut {
        assert!(!session.carries(), "no byte comes in");
    }
    assert!(drained.carries(), "a drained session continues");
    assert_eq!(open_sockets(&site.host, CUT), 2, "nobody destroyed them");
    assert!(!site.client_opens(0, CUT) && !site.client_opens(1, CUT));
    assert!(reported(&site));
}

/// The kernel alone stops incoming packets. The next start of the agent cuts the sessions.
#[test]
fn with_the_agent_dead_no_byte_comes_in_after_the_end_and_the_next_start_cuts() {
    let mut site = site();
    let (cutting, draining) = (listen(&site, CUT), listen(&site, DRAIN));
    let lasts = Duration::from_secs(2);
    let before = Instant::now();
    admit(&site, &CLIENT, lasts);
    let granted = Instant::now();
    let mut cut = [0, 1].map(|family| Session::open(&site, &cutting, family, CUT));
    let mut drained = Session::open(&site, &draining, 0, DRAIN);
    site.end(Signal::KILL);
    for session in &mut cut {
        // On a slow machine the byte itself may come after the end.
        assert!(session.carries() || before.elapsed() > lasts, "open until its end");
    }
    std::thread::sleep((lasts + Duration::from_millis(100)).saturating_sub(granted.elapsed()));
    for session in &mut cut {
        assert!(!session.carries(), "no byte comes in");
    }
    assert!(drained.carries());
    assert_eq!(sockets_of(&site.host, CUT, &["01"]), 2, "no agent ends them");
    site.start();
    for session in &mut cut {
        session.assert_cut_within(HEARD);
    }
    assert_eq!(open_sockets(&site.host, CUT), 0);
    assert!(drained.carries());
    assert_eq!(cut_in_audit(&site), 2);
}

#[test]
fn a_session_that_another_grant_covers_is_kept_until_that_one_ends() {
    let mut site = site();
    let cutting = listen(&site, CUT);
    let narrow = admit(&site, &CLIENT, LONG);
    let mut sessions = [0, 1].map(|family| Session::open(&site, &cutting, family, CUT));
    let wide = admit(&site, &["198.51.100.0/24", "2001:db8:1::/64"], LONG);
    revoke(&site, &narrow);
    site.end(Signal::KILL);
    site.start();
    for session in &mut sessions {
        assert!(session.carries(), "covered by the other grant");
    }
    assert_eq!(cut_in_audit(&site), 0);
    revoke(&site, &wide);
    for session in &mut sessions {
        session.assert_cut_within(HEARD);
    }
    assert_eq!(cut_in_audit(&site), 2);
}

#[test]
fn a_grant_may_cut_its_own_sessions_where_the_port_drains() {
    let site = site();
    let draining = listen(&site, DRAIN);
    let lasts = Duration::from_secs(2);
    let cut = v1::Sessions::Cut.into();
    let own = v1::Grant { sessions: cut, ..grant(&site, &[CLIENT[0]], lasts) };
    site.push(site.sign(&own)).unwrap();
    admit(&site, &[CLIENT[1]], lasts);
    let [mut v4, mut v6] = [0, 1].map(|family| Session::open(&site, &draining, family, DRAIN));
    v4.assert_cut_within(lasts + HEARD);
    assert!(v6.carries(), "a grant that says nothing drains");
}

/// Half-open requests and closing sessions are cut too. Sessions in time-wait stay, and so do the
/// host's sessions with itself.
#[test]
fn the_hosts_sessions_with_itself_and_sessions_in_time_wait_are_left_alone() {
    let site = site();
    let cutting = listen(&site, CUT);
    admit(&site, &CLIENT, LONG);
    let mut own =
        [("127.0.0.1", 0), ("::1", 1), (TO_CLIENT[0], 2), (TO_CLIENT[1], 3)].map(|(address, _)| {
            let client = site.host.run(|| {
                TcpStream::connect(SocketAddr::new(address.parse().unwrap(), CUT)).unwrap()
            });
            Session { client, server: cutting.accept().unwrap().0 }
        });
    // The server closes first: its end stays in time-wait.
    let Session { client, server } = Session::open(&site, &cutting, 0, CUT);
    drop(server);
    drop(client);
    wait_until(|| sockets_of(&site.host, CUT, &["06"]) == 1);
    // A session that the client has closed and the service has not.
    let mut closing = Session::open(&site, &cutting, 1, CUT);
    closing.client.shutdown(std::net::Shutdown::Write).unwrap();
    wait_until(|| sockets_of(&site.host, CUT, &["08"]) == 1);
    assert_eq!(site.revoke_all(), 1);
    closing.client.set_read_timeout(Some(HEARD)).unwrap();
    let heard = closing.client.read(&mut [0]).unwrap_err().kind();
    assert_eq!(heard, ErrorKind::ConnectionReset);
    assert_eq!(sockets_of(&site.host, CUT, &["06"]), 1, "time-wait");
    for session in &mut own {
        assert!(session.carries());
    }
    assert_eq!(cut_in_audit(&site), 1);
}

/// More sessions than the agent cuts in one pass.
#[test]
fn any_number_of_sessions_is_cut_in_time() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let site = site();
    let cutting = listen(&site, CUT);
    admit(&site, &CLIENT, LONG);
    let count = 2 * jit_agent::kernel::datapath::cut::MOST + 100;
    let mut sessions: Vec<_> = (0..count)
        .map(|number| {
            let address = address(TO_CLIENT, number % 2, CUT);
            let client = site.client.run(|| TcpStream::connect_timeout(&address, PATIENCE));
            Session { client: client.unwrap(), server: cutting.accept().unwrap().0 }
        })
        .collect();
    assert_eq!(sockets_of(&site.host, CUT, &["01"]), count);
    let began = Instant::now();
    assert_eq!(site.revoke_all(), 1);
    for session in &mut sessions {
        let left = HEARD.saturating_sub(began.elapsed());
        session.assert_cut_within(left.max(Duration::from_millis(1)));
    }
    println!("{count} sessions cut within {:?}", began.elapsed());
    assert_eq!(open_sockets(&site.host, CUT), 0);
    assert_eq!(cut_in_audit(&site), u64::try_from(count).unwrap());
}

pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + HEARD;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen within {HEARD:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
