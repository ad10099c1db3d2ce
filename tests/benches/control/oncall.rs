//! What a person on call waits for: `status` and `why`, from the start of the process to its end, also
//! during a flood of SYNs, and `why` without an agent.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use jit_tests::{
    agent::TO_STRANGER,
    figures::size,
    live::{Flood, Sources, Spell, Target},
};
use rustix::process::Signal;

use crate::grants::{LONG, Signed, many, millis, report};

/// A source with a grant, and one without.
const SOURCES: [(&str, &str, i32); 2] = [("open", "11.0.0.7", 0), ("closed", "192.0.2.7", 1)];

pub(crate) fn measure() {
    let mut signed = Signed::start();
    let grants = size(10_000, 500);
    signed.fill(0..grants, LONG);
    all(&signed, grants, "");
    let spell = flood(&signed);
    let (began, before) = (Instant::now(), spell.sent());
    all(&signed, grants, ", during a flood");
    let sent = u32::try_from(spell.sent() - before).unwrap();
    let rate = f64::from(sent) / began.elapsed().as_secs_f64() / 1e6;
    report("status", "frames of the flood taken in", ("Mpps", true), vec![rate]);
    spell.stop();
    signed.site.end(Signal::KILL);
    why(&signed, &format!("{}, without an agent", many(grants)));
    timed(&signed, &["status"], 1, &format!("status, {}, without an agent", many(grants)));
}

fn all(signed: &Signed, grants: u32, state: &str) {
    for arguments in [&["status"][..], &["status", "--json"]] {
        let row = format!("{}, {}{state}", arguments.join(" "), many(grants));
        timed(signed, arguments, 0, &row);
    }
    why(signed, &format!("{}{state}", many(grants)));
}

fn why(signed: &Signed, state: &str) {
    for (answer, source, exit) in SOURCES {
        timed(signed, &["why", source, "22"], exit, &format!("why, {answer}, {state}"));
    }
}

fn timed(signed: &Signed, arguments: &[&str], exit: i32, row: &str) {
    let once = || {
        let mut command = signed.site.command(arguments);
        let (output, took) = signed.site.host.run(|| {
            let start = Instant::now();
            (command.output().unwrap(), start.elapsed())
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{row}: {said}");
        millis(took)
    };
    let times = std::iter::repeat_with(once).take(size(20, 2)).collect();
    report("status", row, ("ms", false), times);
    // Calls at once share a budget.
    std::thread::sleep(Duration::from_millis(200));
}

/// From a million sources, to the stranger's side, as fast as a CPU sends.
fn flood(signed: &Signed) -> Spell {
    let site = &signed.site;
    let address: IpAddr = TO_STRANGER[0].parse().unwrap();
    let (mac, through) = (site.host.mac("s0"), site.stranger.index("p0"));
    let flood = Flood::new(Target { address, mac, through }, Sources::Million);
    Spell::start(flood, &site.stranger, 100_000)
}
