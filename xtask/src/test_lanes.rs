//! Says which test programs run side by side, and runs two lanes of work. What the work is, the
//! caller knows.
//!
//! One lane computes, the other one waits: for a kernel that removes namespaces, for clocks, for
//! timeouts. So the processors always have something to do. What measures times runs alone.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    thread,
};

use crate::{shell, test_programs::TestProgram};

/// Where a test program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Beside one that waits, with as many threads as there are processors.
    Computes,
    /// Beside one that computes, with twice as many threads.
    Waits,
    /// When no other test runs.
    Alone,
    /// Beside the virtual machines.
    Machines,
}

/// The programs that take more than some seconds: those of a lane in the order in which they begin,
/// the longest ones first. All others come after them, and compute.
const KNOWN: [(&str, Lane); 14] = [
    ("jit-agent/controller/tests/controller/main.rs", Lane::Computes),
    // Browsers, controllers and hosts: it waits for none of them long.
    ("tests/tests/whole/main.rs", Lane::Computes),
    ("jit-agent/tests/rules/main.rs", Lane::Computes),
    ("jit-agent/controller/src/lib.rs", Lane::Computes),
    ("jit-agent/src/lib.rs", Lane::Computes),
    ("tests/tests/lifecycle/main.rs", Lane::Waits),
    ("jit-agent/controller/tests/bus/main.rs", Lane::Waits),
    ("tests/tests/identity/main.rs", Lane::Waits),
    ("tests/tests/hooks/main.rs", Lane::Waits),
    ("tests/tests/controllers/main.rs", Lane::Waits),
    ("tests/tests/coverage/main.rs", Lane::Waits),
    // Who is not flooded must be served in time, and memory is bounded.
    ("tests/tests/floods/main.rs", Lane::Alone),
    // Grants must reach hosts in milliseconds.
    ("tests/tests/fleet/main.rs", Lane::Alone),
    // Five minutes, and little of a processor.
    ("tests/tests/soak.rs", Lane::Machines),
];

/// The lane of a program.
pub(crate) fn lane(program: &TestProgram) -> Lane {
    known(program).map_or(Lane::Computes, |(_, lane)| lane)
}

/// Where the program stands among those of its lane.
pub(crate) fn rank(program: &TestProgram) -> usize {
    known(program).map_or(KNOWN.len(), |(rank, _)| rank)
}

fn known(program: &TestProgram) -> Option<(usize, Lane)> {
    let source = program.source.strip_prefix(shell::root()).ok()?;
    let is_it = |(name, _): &(&str, Lane)| source.as_os_str() == *name;
    let rank = KNOWN.iter().position(is_it)?;
    KNOWN.get(rank).map(|&(_, lane)| (rank, lane))
}

/// Does the work of both lanes, each in its order; a lane that has no more of its own takes what the
/// other one has left. Returns the results in no order.
pub(crate) fn both<T: Send, R: Send>(lanes: [Vec<T>; 2], run: impl Fn(T) -> R + Sync) -> Vec<R> {
    let lanes = lanes.map(|lane| Mutex::new(VecDeque::from(lane)));
    let next =
        |lane: &Mutex<VecDeque<T>>| lane.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let [first, second] = &lanes;
    let work = |own: &Mutex<VecDeque<T>>, other: &Mutex<VecDeque<T>>| {
        let mut done = Vec::new();
        while let Some(work) = next(own).or_else(|| next(other)) {
            done.push(run(work));
        }
        done
    };
    thread::scope(|scope| {
        let beside = scope.spawn(|| work(second, first));
        let mut done = work(first, second);
        // What panics in a lane panics in the task.
        done.extend(beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        done
    })
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Barrier};

    use super::*;

    fn program(source: &str) -> TestProgram {
        TestProgram {
            package: String::new(),
            executable: PathBuf::new(),
            directory: PathBuf::new(),
            source: shell::root().join(source),
            kind: "test".to_owned(),
        }
    }

    #[test]
    fn every_program_with_a_place_is_there() {
        for (rank, (source, expected)) in KNOWN.into_iter().enumerate() {
            let program = program(source);
            assert!(program.source.is_file(), "there is no {source}");
            assert_eq!((super::rank(&program), lane(&program)), (rank, expected));
        }
    }

    #[test]
    fn who_is_not_known_computes_and_comes_last() {
        let other = program("proto/src/lib.rs");
        assert_eq!((rank(&other), lane(&other)), (KNOWN.len(), Lane::Computes));
    }

    #[test]
    fn two_are_done_at_once_and_nothing_is_left() {
        // Each of two at a time waits for the other one: a single lane would never end.
        let both_are_there = Barrier::new(2);
        let mut done = both([vec![1, 2, 3, 4, 5], vec![6]], |one| {
            both_are_there.wait();
            one
        });
        done.sort_unstable();
        assert_eq!(done, [1, 2, 3, 4, 5, 6]);
    }
}
