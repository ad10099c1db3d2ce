//! Connections: many, silent, slow, of those who have no name here, and from ever new networks.

use std::{
    collections::VecDeque,
    io::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jit_tests::{agent::CLIENT, sockets::connect_from};
use rustls::ClientConnection;

use crate::{
    http2,
    scene::{Flood, Scene, size},
};

const QUICK: Duration = Duration::from_millis(500);

fn any_port(source: IpAddr) -> SocketAddr {
    SocketAddr::new(source, 0)
}

#[test]
fn silent_connections_keep_nobody_out() {
    let scene = Scene::new();
    let sources = scene.strangers(20);
    scene.under(|flood| {
        scene.stranger(|| {
            let from = |source: &IpAddr| {
                connect_from(any_port(*source), Scene::for_strangers(0), QUICK).ok()
            };
            // Half of one source, half of many.
            let count = size(600, 2_000);
            let one = std::iter::repeat_n(&sources[0], count / 2);
            let many = sources.iter().cycle().take(count / 2);
            let held: Vec<_> = one.chain(many).filter_map(from).collect();
            assert!(held.len() > count / 2, "{}", held.len());
            drop(flood.hold(held));
        });
    });
}

#[test]
fn a_client_hello_of_one_byte_a_second_keeps_nobody_out() {
    let scene = Scene::new();
    let config = scene.credentials("nobody");
    let sources = scene.strangers(20);
    scene.under(|flood| {
        let name = Scene::server_name();
        let mut hello = Vec::new();
        let mut session = ClientConnection::new(Arc::clone(&config), name).unwrap();
        session.write_tls(&mut hello).unwrap();
        scene.stranger(|| {
            let from = |source: &IpAddr| {
                connect_from(any_port(*source), Scene::for_strangers(0), QUICK).ok()
            };
            let count = size(400, 2_000);
            let mut open: Vec<_> = sources.iter().cycle().take(count).filter_map(from).collect();
            for byte in &hello {
                open.retain_mut(|stream: &mut TcpStream| stream.write_all(&[*byte]).is_ok());
                flood.is_up();
                for _ in 0..20 {
                    if !flood.goes_on() {
                        return;
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            }
        });
    });
}

/// More connections than there are places, from more addresses than fill them. They are of the
/// authority, and stand in no `[[controller]]`; or have a controller's name from a foreign
/// authority. They get no place at all.
#[test]
fn a_certificate_without_a_controllers_name_gets_no_connection() {
    let scene = Scene::new();
    let sources = scene.strangers(17);
    for (authority, name) in [("pki", "nobody"), ("pki", "agent"), ("foreign", "good")] {
        let config = Arc::new(scene.credentials_of(authority, name));
        let count = size(200, 17 * 32);
        scene.under(|flood| {
            scene.stranger(|| {
                let from = |source: &IpAddr| {
                    http2::connect(&config, any_port(*source), Scene::for_strangers(0)).ok()
                };
                let held: Vec<_> = sources.iter().cycle().take(count).filter_map(from).collect();
                let mut held = flood.hold(held);
                let open = held.iter_mut().filter_map(|raw| (!raw.is_closed(QUICK)).then_some(()));
                assert_eq!(open.count(), 0, "places that {authority}/{name} holds");
            });
        });
    }
    let log = scene.site().log();
    assert!(log.lines().count() < 200, "few lines, however many connections: {log}");
}

/// All places and more are asked for with the certificate of a controller that may do one thing.
#[test]
fn a_silent_controller_with_one_permission_keeps_nobody_out() {
    let scene = Scene::new();
    let sources = scene.strangers(17);
    for name in ["reader", "granter"] {
        let config = scene.credentials(name);
        scene.under(|flood| {
            scene.stranger(|| {
                let count = size(100, 17 * 32);
                let mut held = VecDeque::new();
                for source in sources.iter().cycle() {
                    let agent = Scene::for_strangers(0);
                    held.extend(http2::connect(&config, any_port(*source), agent));
                    if held.len() >= count {
                        held.pop_front();
                        flood.is_up();
                    }
                    if !flood.goes_on() {
                        break;
                    }
                }
                let connections = scene.connections();
                assert!(connections <= 16, "{connections}");
            });
        });
    }
}

/// Connections of a controller that are silent, or greet and then do nothing.
#[test]
fn a_controller_that_only_holds_places_keeps_nobody_out() {
    let scene = Scene::new();
    let (bad, good) = (scene.credentials("bad"), scene.credentials("good"));
    let sources = scene.strangers(17);
    scene.under(|flood| {
        scene.stranger(|| {
            let connect = |config, source: &IpAddr| {
                http2::connect(config, any_port(*source), Scene::for_strangers(0)).ok()
            };
            let mut held = Vec::new();
            for (number, source) in sources.iter().cycle().take(size(100, 544)).enumerate() {
                // Also some with the good one's certificate: its idle ones give way to new ones.
                let config = if number % 3 == 0 { &good } else { &bad };
                let Some(mut raw) = connect(config, source) else { continue };
                if number % 2 == 0 {
                    let _closed = raw.greet_well();
                }
                held.push(raw);
            }
            let connections = scene.connections();
            assert!(connections <= 2 * 16, "{connections}");
            drop(flood.hold(held));
        });
    });
}

#[test]
fn ever_new_ipv6_networks_of_one_site_keep_nobody_out() {
    let scene = Scene::new();
    scene.route_site();
    let second = Duration::from_secs(1);
    let rate = u32::try_from(size(300, 1_000)).unwrap();
    let churn = |flood: &Flood| {
        let (mut held, mut begun) = (VecDeque::new(), 0_u16);
        let began = Instant::now();
        while flood.goes_on() {
            let source = Ipv6Addr::new(0x2001, 0xdb8, 0xf, begun, 0, 0, 0, 1);
            let stream = connect_from(any_port(source.into()), Scene::for_strangers(1), QUICK);
            held.extend(stream);
            if held.len() > 600 {
                held.pop_front();
            }
            begun = begun.wrapping_add(1);
            // This number a second.
            let due = began + second * u32::from(begun) / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        assert!(held.len() > 300, "{}", held.len());
    };
    // A controller far away: in the time of its handshake all places are asked for several times.
    let config = scene.credentials("good");
    let far = || {
        let tcp = connect_from(any_port(CLIENT[0].parse().unwrap()), Scene::for_clients(), QUICK);
        let tcp = tcp.unwrap();
        thread::sleep(second);
        http2::secure(&config, tcp).is_ok_and(|mut raw| {
            raw.greet_well().unwrap();
            !raw.is_closed(QUICK)
        })
    };
    scene.under(|flood| {
        thread::scope(|scope| {
            scope.spawn(|| scene.stranger(|| churn(flood)));
            let served = scene.site().client.run(|| (0..4).filter(|_| far()).count());
            assert_eq!(served, 4, "of four");
            flood.is_up();
        });
    });
}
