//! Whether the clocks are right: the wall clock against the latest time that this host has shown, and
//! against a time daemon; the boot clock against that of the kernel programs.

use std::{io, time::Duration};

use jit_proto::{WallTime, words::duration_text};

use super::{finding::Finding, host::Host};
use crate::{disk::store::Store, oncall::names, rules::clock::SKEW, system::ntp::Discipline};

/// A clock that may be this wrong is not one to sign by.
const MOST_OFF: Duration = Duration::from_secs(10);

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let elsewhere = host.process.as_ref().is_some_and(|process| process.in_other_time);
    vec![floor(host), boot(host.boot_offset.as_ref(), elsewhere), ntp(&Discipline::read())]
}

fn floor(host: &Host) -> Finding {
    const NAME: &str = "clock-floor";
    let state = host.glimpse.paths.state.clone();
    let there = std::fs::metadata(state.join("grants.redb"));
    match there.map_err(|error| error.kind()) {
        Err(io::ErrorKind::NotFound) => {
            return Finding::ok(NAME, "no time is stored: the agent has not run here");
        }
        Err(_) => return Finding::unseen(NAME, "only root can read the stored time"),
        Ok(_) => {}
    }
    let stored = names::within_patience(move || Store::peek(&state));
    match stored.and_then(|stored| stored.map_err(|error| error.to_string())) {
        Ok(stored) => floor_finding(stored.floor, host.now.wall),
        Err(why) => Finding::unseen(NAME, format!("the stored time cannot be read: {why}")),
    }
}

fn floor_finding(floor: Option<WallTime>, now: WallTime) -> Finding {
    const NAME: &str = "clock-floor";
    match floor {
        Some(floor) if now + SKEW < floor => {
            let less = floor.since(now).map(duration_text).unwrap_or_default();
            let seen = format!(
                "the clock says {now}, {less} less than {floor}, which it has shown before: nothing \
                 new opens"
            );
            Finding::failure(NAME, seen)
                .fix("timedatectl; chronyc makestep")
                .fix("if it is right now and was ahead once: the runbook, clock_untrusted")
        }
        Some(floor) => Finding::ok(NAME, format!("{now}, not before the stored {floor}")),
        None => Finding::ok(NAME, "no time is stored yet"),
    }
}

/// `offset`: of this process's own clock, if it was measured; `elsewhere`: the agent's time
/// namespace is another one.
fn boot(offset: Option<&io::Result<i64>>, elsewhere: bool) -> Finding {
    const NAME: &str = "boot-clock";
    let fix = "start the agent without a time namespace (`unshare --time`, a container's runtime)";
    match offset {
        _ if elsewhere => {
            let seen = "the agent runs in another time namespace than this command: it measures how \
                        far its boot clock is off, and grants end on time while it can";
            Finding::warning(NAME, seen).fix(fix)
        }
        Some(Ok(0)) => Finding::ok(NAME, "it is the kernel programs' own"),
        Some(Ok(offset)) => {
            let off = duration_text(rounded(Duration::from_nanos(offset.unsigned_abs())));
            let seen = format!(
                "a time namespace: this boot clock is {off} off that of the kernel programs; the \
                 agent measures it, and grants end on time while it can"
            );
            Finding::warning(NAME, seen).fix(fix)
        }
        Some(Err(error)) => {
            let seen = format!("the kernel programs' boot clock cannot be read: {error}");
            Finding::warning(NAME, seen).fix("journalctl -u jit-agent; update the kernel")
        }
        None => Finding::unseen(NAME, "only root can ask a kernel program for its boot clock"),
    }
}

/// To the nearest second: a measurement is off by the time that it takes.
const fn rounded(time: Duration) -> Duration {
    let up = time.subsec_millis() >= 500;
    Duration::from_secs(time.as_secs().saturating_add(if up { 1 } else { 0 }))
}

fn ntp(read: &io::Result<Discipline>) -> Finding {
    const NAME: &str = "ntp";
    let fix = "timedatectl set-ntp true, or systemctl enable --now chrony; then chronyc tracking";
    match read {
        Ok(Discipline { synchronised: false, .. }) => {
            let seen = "no time daemon keeps the clock right: grants begin and end by it, and more \
                        than a minute off they are refused";
            Finding::warning(NAME, seen).fix(fix)
        }
        Ok(Discipline { may_be_off, .. }) if *may_be_off > MOST_OFF => {
            let seen = format!("the clock may be {} off", duration_text(*may_be_off));
            Finding::warning(NAME, seen).fix(fix)
        }
        Ok(Discipline { may_be_off, .. }) => {
            let off = may_be_off.as_millis();
            Finding::ok(NAME, format!("a time daemon keeps the clock right within {off} ms"))
        }
        Err(error) => Finding::unseen(NAME, format!("cannot ask the kernel: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn a_clock_is_wrong_if_it_is_more_than_a_minute_below_what_it_has_shown() {
        let now = WallTime(1_800_000_000_000);
        let level = |more: i64| floor_finding(Some(WallTime(now.0 + more)), now).level;
        assert_eq!([level(-5), level(0), level(60_000)], [Level::Ok; 3]);
        assert_eq!(level(60_001), Level::Failure);
        assert_eq!(floor_finding(None, now).level, Level::Ok);
        let finding = floor_finding(Some(WallTime(now.0 + 7_200_000)), now);
        assert!(finding.seen.contains("2h less than") && finding.fix.len() == 2, "{finding:?}");
    }

    #[test]
    fn a_boot_clock_of_another_time_namespace_is_a_warning() {
        assert_eq!(boot(Some(&Ok(0)), false).level, Level::Ok);
        assert_eq!(boot(Some(&Ok(0)), true).level, Level::Warning);
        assert_eq!(boot(None, false).level, Level::Unseen);
        let finding = boot(Some(&Ok(-3_599_999_900_000)), false);
        assert!(finding.level == Level::Warning && finding.seen.contains("1h off"), "{finding:?}");
        let refused = Err(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(boot(Some(&refused), false).level, Level::Warning);
    }

    #[test]
    fn a_clock_that_nobody_keeps_right_is_a_warning() {
        let level = |synchronised, seconds| {
            let may_be_off = Duration::from_secs(seconds);
            ntp(&Ok(Discipline { synchronised, may_be_off })).level
        };
        assert_eq!(level(true, 0), Level::Ok);
        assert_eq!(level(true, 11), Level::Warning);
        assert_eq!(level(false, 0), Level::Warning);
        assert_eq!(ntp(&Err(io::ErrorKind::PermissionDenied.into())).level, Level::Unseen);
    }
}
