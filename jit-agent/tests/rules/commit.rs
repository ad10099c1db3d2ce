//! Which pushed policy is in force, compared with a plain reading of the history.

use jit_agent::rules::{
    clock::{BootNanos, Now},
    commit::{Commit, CommitError, Standing, Versioned},
};
use jit_proto::WallTime;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A push of the highest version so far plus the first number. It waits for this number of
    /// seconds.
    Push(i64, Option<u64>),
    /// A confirmation of the version in force plus the first number, over a connection made this
    /// number of seconds ago.
    Confirm(i64, u64),
    Pass(u64),
    Restart,
    Reboot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (-2..4_i64, prop::option::weighted(0.7, 1..60_u64)).prop_map(|(v, w)| Step::Push(v, w)),
        3 => (-1..2_i64, 0..40_u64).prop_map(|(v, ago)| Step::Confirm(v, ago)),
        4 => (0..40_u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
        1 => Just(Step::Reboot),
    ]
}

/// An accepted policy, and its state.
#[derive(Clone, Copy, Debug)]
struct Entry {
    version: u64,
    /// When its waiting ends. `None`: it needed no confirmation, or has it.
    ends: Option<u64>,
    /// Connections made after this are fresh for it.
    applied: u64,
    /// A reboot or a later policy has removed it, because it was not confirmed.
    gone: bool,
}

/// The policy that a reader of the history would name: the latest one that is confirmed or still
/// waits.
fn in_force(history: &[Entry], now: u64) -> u64 {
    let counts = |entry: &&Entry| match entry.ends {
        None => true,
        Some(end) => !entry.gone && now < end,
    };
    history.iter().rev().find(counts).map_or(0, |entry| entry.version)
}

fn policy(version: u64) -> Versioned<()> {
    Versioned { version, digest: [u8::try_from(version % 251).unwrap(); 32], policy: () }
}

fn at(seconds: u64) -> Now {
    Now { wall: WallTime(0), boot: BootNanos(seconds * SECOND) }
}

fn restarted(commit: &Commit<()>, same_boot: bool, now: Now) -> Commit<()> {
    let pending = commit
        .pending()
        .map(|pending| (pending.policy.clone(), same_boot.then_some(pending.deadline)));
    Commit::restore(commit.highest(), commit.confirmed().cloned(), pending, now)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn the_policy_in_force_follows_from_the_history(steps in prop::collection::vec(step(), 1..30)) {
        let mut commit = Commit::default();
        let mut history: Vec<Entry> = Vec::new();
        // The boot clock, in seconds. It does not start again at a reboot here: for the history it
        // is enough that a policy that waited before is gone.
        let mut clock = 1000;
        for step in steps {
            let now = at(clock);
            let highest = history.iter().map(|entry| entry.version).max().unwrap_or(0);
            match step {
                Step::Push(above, window) => {
                    let version = highest.saturating_add_signed(above);
                    let standing = commit.standing(version, &policy(version).digest);
                    if version > highest {
                        prop_assert_eq!(standing, Ok(Standing::New));
                        let wait = window.map(std::time::Duration::from_secs);
                        commit.accept(policy(version), wait, now);
                        commit.applied(now);
                        for entry in &mut history {
                            entry.gone = true;
                        }
                        let ends = window.map(|window| clock + window);
                        history.push(Entry { version, ends, applied: clock, gone: false });
                    } else if version != 0 && version == in_force(&history, clock) {
                        prop_assert_eq!(standing, Ok(Standing::Known));
                    } else {
                        prop_assert_eq!(standing, Err(CommitError::Stale { asked: version, highest }));
                    }
                }
                Step::Confirm(above, ago) => {
                    let current = in_force(&history, clock);
                    let version = current.saturating_add_signed(above);
                    let connected = clock.saturating_sub(ago);
                    let entry = history.iter_mut().rev().find(|entry| entry.version == version);
                    let answer = commit.confirm(version, at(connected).boot, now);
                    match entry {
                        Some(entry) if version == current && entry.ends.is_none() => {
                            prop_assert_eq!(answer, Ok(Standing::Known));
                        }
                        Some(entry) if version == current && connected <= entry.applied => {
                            prop_assert_eq!(answer, Err(CommitError::NotFresh(version)));
                        }
                        Some(entry) if version == current => {
                            prop_assert_eq!(answer, Ok(Standing::New));
                            entry.ends = None;
                        }
                        _ => {
                            let nothing = CommitError::NothingPending { asked: version, in_force: current };
                            prop_assert_eq!(answer, Err(nothing));
                        }
                    }
                }
                Step::Pass(seconds) => clock += seconds,
                Step::Restart => {
                    commit = restarted(&commit, true, now);
                    if let Some(waits) = history.last_mut().filter(|entry| entry.ends.is_some()) {
                        // Every connection is newer than the agent.
                        waits.applied = clock;
                    }
                }
                Step::Reboot => {
                    commit = restarted(&commit, false, now);
                    for entry in &mut history {
                        entry.gone = true;
                    }
                }
            }
            let now = at(clock);
            if commit.deadline_passed(now) {
                prop_assert!(commit.give_up().is_some());
            }
            let version = commit.in_force().map_or(0, |policy| policy.version);
            prop_assert_eq!(version, in_force(&history, clock), "{:?} {:?}", step, history);
            prop_assert_eq!(commit.highest(), history.iter().map(|e| e.version).max().unwrap_or(0));
        }
    }
}

#[test]
fn a_policy_that_replaces_a_waiting_one_does_not_confirm_it() {
    let mut commit = Commit::default();
    commit.accept(policy(1), None, at(0));
    commit.accept(policy(2), Some(std::time::Duration::from_secs(60)), at(1));
    commit.accept(policy(3), Some(std::time::Duration::from_secs(60)), at(2));
    assert!(!commit.deadline_passed(at(61)) && commit.deadline_passed(at(62)));
    assert_eq!(commit.give_up().map(|policy| policy.version), Some(3));
    assert_eq!(commit.in_force().map(|policy| policy.version), Some(1));
    assert_eq!(commit.highest(), 3);
}

#[test]
fn the_window_has_an_upper_limit() {
    let mut commit = Commit::default();
    commit.accept(policy(1), Some(std::time::Duration::MAX), at(0));
    assert!(commit.deadline_passed(at(3600)));
}
