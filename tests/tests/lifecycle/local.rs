//! Local connections: users who may only read cannot keep out those who must close.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, Site},
    programs::binary,
};
use rustix::{
    fs::{Gid, Uid},
    thread::{set_thread_res_gid, set_thread_res_uid},
};

/// A member of the socket's group (`nobody`).
const MEMBER: u32 = 65_534;
/// Number of places of each kind.
const PLACES: usize = 16;
const LONG: Duration = Duration::from_secs(600);

/// Connections of this user that send nothing.
fn silent(socket: &Path, user: u32, count: usize) -> Vec<UnixStream> {
    // Changes the credentials of this thread alone.
    let connecting = || {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        (0..count).map(|_| UnixStream::connect(socket).unwrap()).collect()
    };
    thread::scope(|scope| scope.spawn(connecting).join().unwrap())
}

/// Whether the agent keeps a connection: it sends nothing before a request.
fn is_kept(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    match stream.read(&mut [0; 1]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() != io::ErrorKind::ConnectionReset,
    }
}

/// Whether the agent answered (1: there was nothing to revoke), and what the command complained of.
fn revoke(site: &Site) -> (bool, String) {
    let output = Command::new(binary("jitctl"))
        .arg("--socket")
        .arg(site.path("run/agent.sock"))
        .args(["revoke", "--all", "--yes", "--reason", "test"])
        .output()
        .unwrap();
    (
        matches!(output.status.code(), Some(0 | 1)),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn started() -> Site {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    site
}

#[test]
fn a_group_member_who_holds_all_places_does_not_keep_root_out() {
    let site = started();
    let socket = site.path("run/agent.sock");
    for directory in [site.path(""), site.path("run")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).unwrap();
    }
    chown(&socket, None, Some(MEMBER)).unwrap();
    let mut held = silent(&socket, MEMBER, PLACES + 4);
    assert!(!is_kept(held.last_mut().unwrap()), "one connection more than there are places");
    assert!(is_kept(held.first_mut().unwrap()), "the first connection has a place");
    let (status, code) = site.status();
    assert_eq!((status["state"].as_str(), code), (Some("enforcing"), 0), "{status:#}");
    assert_eq!(revoke(&site), (true, String::new()));
    site.assert_closed_to_all();
    drop(held);
}

#[test]
fn the_command_line_says_when_no_place_is_left() {
    let site = started();
    let ask = |command: &str| {
        let Output { stdout, stderr, .. } = site.run(&[command]);
        String::from_utf8([stdout, stderr].concat()).unwrap()
    };
    // The connections of before do not end at once: until then their places are taken.
    let mut held = Vec::new();
    loop {
        held.extend(silent(&site.path("run/agent.sock"), 0, PLACES));
        let said = [ask("status"), ask("grants"), revoke(&site).1];
        assert!(said.iter().all(|said| !said.contains("is not running")), "{said:?}");
        if said.iter().all(|said| said.contains("no free place")) {
            break;
        }
        assert!(held.len() < 10 * PLACES, "{said:?}");
    }
    drop(held);
    // The agent notices soon that a connection has ended.
    let deadline = Instant::now() + Duration::from_secs(5);
    while !revoke(&site).0 {
        assert!(Instant::now() < deadline, "places do not become free");
    }
    site.assert_closed_to_all();
}

#[test]
fn a_request_is_read_no_further_than_its_call_needs() {
    let site = started();
    let bytes = |count: usize| v1::Envelope {
        payload: vec![0; count].into(),
        ..site.envelope(&CLIENT, LONG)
    };
    // The first is larger than any envelope may be: it is read and judged. The second is larger
    // than what is read at all.
    let [judged, unread] = [300_000, 3_000_000].map(|count| site.push(bytes(count)).unwrap_err());
    assert!(judged.message().starts_with("too_large: "), "{judged:?}");
    assert!(unread.message().contains("length limit exceeded"), "{unread:?}");
    // A question is short: bytes after it are not read, though the fields are known.
    let what = v1::diff_policy_request::What::Envelope(bytes(3_000_000));
    let draft = v1::DiffPolicyRequest { what: Some(what) };
    let unread = site.call(async |mut client| client.diff_policy(draft).await).unwrap_err();
    assert!(unread.message().contains("length limit exceeded"), "{unread:?}");
    let cursor = "x".repeat(20_000);
    let watch = v1::WatchRequest { cursor, ..Default::default() };
    let unread = site.call(async |mut client| client.watch(watch).await.map(drop)).unwrap_err();
    assert!(unread.message().contains("length limit exceeded"), "{unread:?}");
    assert_eq!(site.status().1, 0);
}
