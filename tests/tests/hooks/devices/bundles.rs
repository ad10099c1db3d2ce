//! Bonds and teams whose members fail, leave, come back and are exchanged, while a user's session
//! goes on and a stranger probes.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use jit_tests::agent::{Site, carries};

use super::{BUNDLES, DRAIN, Device, LONG, SETTLED, assert_open, make};

/// What happens to the first member.
#[derive(Clone, Copy, Debug)]
enum Move {
    Fails,
    Returns,
    Leaves,
    Joins,
    IsDeleted,
    IsAnother,
}

impl Move {
    /// All, in an order in which each is possible.
    const ALL: [Self; 6] =
        [Self::Fails, Self::Returns, Self::Leaves, Self::Joins, Self::IsDeleted, Self::IsAnother];

    fn act(self, device: &Device, site: &Site) {
        let [above, member, ..] = device.names();
        let set = |words: &[&str]| site.host.ip(&[&["link", "set", &member], words].concat());
        match self {
            Self::Fails => set(&["down"]),
            Self::Returns => set(&["up"]),
            Self::Leaves => set(&["nomaster"]),
            Self::Joins => {
                set(&["down"]);
                set(&["master", &above]);
                set(&["up"]);
            }
            Self::IsDeleted => site.host.ip(&["link", "delete", &member]),
            Self::IsAnother => {
                device.pair(site, 1);
                let [far_above, far, ..] = device.far_names();
                site.stranger.ip(&["link", "set", &far, "master", &far_above]);
                site.stranger.ip(&["link", "set", &far, "up"]);
                set(&["master", &above]);
                set(&["up"]);
            }
        }
    }
}

/// Waits until the session carries data again: a bond needs a moment to see a failure.
#[track_caller]
fn assert_carries(session: &mut TcpStream, site: &Site, what: &str) {
    let end = Instant::now() + SETTLED;
    while !carries(session) {
        assert!(Instant::now() < end, "the session ended: {what}\n{}", site.log());
    }
}

#[test]
fn members_that_fail_come_and_go_open_nothing_and_keep_sessions() {
    let mut site = Site::new();
    let devices = make(&site, BUNDLES.iter());
    if devices.is_empty() {
        return;
    }
    let all: Vec<_> = devices.iter().collect();
    assert_open(&site, &all, &[DRAIN], "without an agent");
    site.start();
    let user: Vec<_> = devices.iter().map(|device| device.address(0, 2)).collect();
    site.admit(&user.iter().map(String::as_str).collect::<Vec<_>>(), LONG);
    let (over, tried) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let probes: Vec<_> = devices
            .iter()
            .flat_map(|device| [(device, 0), (device, 1)])
            .map(|(device, family)| {
                let (site, over, tried) = (&site, &over, &tried);
                scope.spawn(move || {
                    let mut opened = 0;
                    while !over.load(Ordering::Relaxed) {
                        opened += u32::from(device.connect(site, family, 3, DRAIN).is_some());
                        tried.fetch_add(1, Ordering::Relaxed);
                    }
                    (device.kind.name, opened)
                })
            })
            .collect();
        let users: Vec<_> = devices
            .iter()
            .map(|device| {
                let site = &site;
                scope.spawn(move || use_while_members_move(site, device))
            })
            .collect();
        let ended: Vec<_> = users.into_iter().map(|user| user.join()).collect();
        over.store(true, Ordering::Relaxed);
        let opened: Vec<_> = probes.into_iter().map(|probe| probe.join().unwrap()).collect();
        assert!(opened.iter().all(|(_, opened)| *opened == 0), "{opened:?}\n{}", site.log());
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    let tried = tried.load(Ordering::Relaxed);
    println!("{tried} probes while members of {} devices moved", devices.len());
    assert!(tried > 20, "{tried}");
}

/// A session under a grant, while each thing happens to a member.
fn use_while_members_move(site: &Site, device: &Device) {
    let end = Instant::now() + SETTLED;
    let mut session = loop {
        if let Some(session) = device.connect(site, 0, 2, DRAIN) {
            break session;
        }
        assert!(Instant::now() < end, "{}: no session", device.kind.name);
    };
    for happens in Move::ALL {
        happens.act(device, site);
        assert_carries(&mut session, site, &format!("{}: {happens:?}", device.kind.name));
        thread::sleep(Duration::from_millis(300));
    }
}
