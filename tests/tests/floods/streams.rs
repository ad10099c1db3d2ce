//! Frames of HTTP/2 by a controller gone bad: cheap to send, and dear for a careless server.

use std::{io, thread, time::Duration};

use crate::{
    http2::{self, Raw, flag, frame, kind},
    scene::{Flood, Scene, size},
};

/// Several connections of the bad controller, each on its own thread, that are made again when they
/// are closed. `flood` sends a part of the flood.
fn flooded(part: impl Fn(&mut Raw, u32) -> io::Result<()> + Sync) {
    let scene = Scene::new();
    let config = scene.credentials("bad");
    let source = Scene::source();
    let work = |flood: &Flood| {
        while flood.goes_on() {
            let Ok(mut raw) = http2::connect(&config, source, Scene::for_strangers(0)) else {
                continue;
            };
            let mut stream = 1;
            let mut step = || {
                raw.greet_well()?;
                while flood.goes_on() && stream < 1_000_000 {
                    part(&mut raw, stream)?;
                    stream += 2;
                    if stream > 100 {
                        flood.is_up();
                    }
                }
                io::Result::Ok(())
            };
            // The agent may close it: that is its good right.
            if step().is_err() {
                flood.is_up();
            }
        }
    };
    scene.under(|flood| {
        thread::scope(|scope| {
            for _ in 0..size(2, 8) {
                scope.spawn(|| scene.stranger(|| work(flood)));
            }
        });
    });
}

#[test]
fn rapid_resets_keep_nobody_out() {
    let head = http2::call("Status", &[]);
    flooded(|raw, stream| {
        let open = frame(kind::HEADERS, flag::END_HEADERS, stream, &head);
        let reset = frame(kind::RESET, 0, stream, &8_u32.to_be_bytes());
        raw.write(&[open, reset].concat())
    });
}

#[test]
fn continuations_without_an_end_keep_nobody_out() {
    let head = http2::call("Status", &[]);
    let more = http2::fields(&[("x", &"y".repeat(100))]).repeat(100);
    flooded(|raw, stream| match stream {
        1 => raw.write(&frame(kind::HEADERS, 0, 1, &head)),
        _ => raw.write(&frame(kind::CONTINUATION, 0, 1, &more)),
    });
}

#[test]
fn pings_keep_nobody_out() {
    let pings = frame(kind::PING, 0, 0, b"pingping").repeat(100);
    flooded(|raw, _| raw.write(&pings));
}

#[test]
fn settings_keep_nobody_out() {
    let settings = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(100);
    flooded(|raw, _| raw.write(&settings));
}

#[test]
fn windows_of_one_byte_keep_nobody_out() {
    let window = frame(kind::WINDOW, 0, 0, &1_u32.to_be_bytes()).repeat(100);
    flooded(|raw, _| {
        // Beyond the largest window, which is an error: so of streams that do not exist.
        let _closed = raw.listen(Duration::from_millis(1));
        raw.write(&window)
    });
}
