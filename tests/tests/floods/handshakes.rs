//! Handshakes that stop midway, again and again.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jit_tests::sockets::connect_from;
use rustls::{ClientConfig, ClientConnection};

use crate::{
    elsewhere, http2,
    scene::{Flood, Scene, size},
};

const QUICK: Duration = Duration::from_millis(500);
/// Handshakes a second. Each costs the agent a signature: more of them flood the processor if the
/// agent is not optimised.
const RATE: u32 = 300;
/// The same for an agent elsewhere, on an emulated processor.
const SLOW_RATE: u32 = 60;
/// Small records: the last one holds nothing but the end of `Finished`.
const RECORD: usize = 64;

/// Where a handshake stops.
#[derive(Clone, Copy, Debug)]
enum Stop {
    AfterClientHello,
    BeforeFinished,
}

/// Begins a handshake and leaves it open.
fn begin(
    config: &Arc<ClientConfig>,
    source: IpAddr,
    agent: SocketAddr,
    stop: Stop,
) -> io::Result<TcpStream> {
    let mut tcp = connect_from(SocketAddr::new(source, 0), agent, QUICK)?;
    let name = Scene::server_name();
    let mut session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while session.wants_write() {
        session.write_tls(&mut tcp)?;
    }
    match stop {
        Stop::AfterClientHello => {}
        Stop::BeforeFinished => {
            while session.is_handshaking() {
                if session.read_tls(&mut tcp)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                session.process_new_packets().map_err(io::Error::other)?;
            }
            let mut answer = Vec::new();
            while session.wants_write() {
                session.write_tls(&mut answer)?;
            }
            tcp.write_all(without_last_record(&answer))?;
        }
    }
    Ok(tcp)
}

/// A record has five bytes before its content; the last two are its length (RFC 8446 section 5.1).
fn without_last_record(records: &[u8]) -> &[u8] {
    let mut last = 0;
    let mut at = 0;
    while let Some([high, low]) = records.get(at + 3..at + 5) {
        last = at;
        at += 5 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    &records[..last]
}

/// Keeps a number of handshakes open: the oldest is closed for a new one, `RATE` times a second.
fn keep_open(flood: &Flood, count: usize, mut open: impl FnMut() -> Option<TcpStream>) {
    let (mut held, began) = (VecDeque::new(), Instant::now());
    let rate = if elsewhere::address().is_some() { SLOW_RATE } else { RATE };
    for begun in 1.. {
        if !flood.goes_on() {
            return;
        }
        held.extend(open());
        if held.len() > count {
            flood.is_up();
            held.pop_front();
        }
        let due = began + Duration::from_secs(1) * begun / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

#[test]
fn handshakes_that_stop_midway_keep_nobody_out() {
    let scene = Scene::new();
    let sources = scene.strangers(17);
    let mut config = scene.credentials_of("pki", "reader");
    config.max_fragment_size = Some(RECORD);
    let config = Arc::new(config);
    for stop in [Stop::AfterClientHello, Stop::BeforeFinished] {
        println!("{stop:?}");
        scene.under(|flood| {
            scene.stranger(|| {
                let mut sources = sources.iter().cycle();
                keep_open(flood, size(300, 17 * 32), || {
                    let source = sources.next()?;
                    begin(&config, *source, Scene::for_strangers(0), stop).ok()
                });
            });
        });
    }
}

/// A network from which a controller was let in keeps a few handshakes. A controller that may only
/// read comes from many networks, and then begins handshakes from all of them.
#[test]
fn handshakes_from_very_many_proven_networks_are_bounded() {
    let scene = Scene::new();
    scene.route_site();
    let config = scene.credentials("reader");
    let networks = u16::try_from(size(150, 1_000)).unwrap();
    let source = |number: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0xf, number, 0, 0, 0, 1));
    scene.stranger(|| {
        for number in 0..networks {
            let from = SocketAddr::new(source(number), 0);
            http2::connect(&config, from, Scene::for_strangers(1)).unwrap();
        }
    });
    scene.under(|flood| {
        scene.stranger(|| {
            let mut sources = (0..networks).cycle().map(source);
            keep_open(flood, 8 * usize::from(networks), || {
                connect_from(SocketAddr::new(sources.next()?, 0), Scene::for_strangers(1), QUICK)
                    .ok()
            });
        });
    });
}
