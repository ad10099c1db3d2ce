//! The checks that run inside each machine, and the features that each kernel must have or is known
//! to lack. The tests are those of the `tests` crate, chosen by name: there is only one set of
//! tests.

use std::time::Duration;

use super::packages::kernel_number;

/// Directory of the programs under test inside the machine.
pub(super) const PROGRAMS: &str = "/vm/programs";

/// A feature that kernels have from some version on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    /// The name that the tests and the agent use.
    pub(super) name: &'static str,
    /// The first Linux that has it.
    since: (u32, u32),
}

/// All features, in the order of the table.
pub(super) const FEATURES: [Feature; 9] = [
    Feature { name: "btf", since: (5, 10) },
    Feature { name: "xdp_link", since: (5, 9) },
    Feature { name: "frags", since: (5, 18) },
    Feature { name: "session_lookup", since: (5, 2) },
    Feature { name: "tcx", since: (6, 6) },
    Feature { name: "clsact", since: (4, 5) },
    Feature { name: "socket_guard", since: (5, 9) },
    Feature { name: "ingress_ifindex", since: (5, 17) },
    Feature { name: "verified_instructions", since: (5, 16) },
];

/// Features that only the tests use, not the gate.
const OF_TESTS: [Feature; 1] = [Feature { name: "guard_test_run", since: (5, 13) }];

impl Feature {
    /// Whether a kernel of this release must have it.
    pub(super) fn expected(&self, release: &str) -> bool {
        kernel_number(release) >= Some(self.since)
    }
}

/// The names of the features that a kernel lacks, separated by commas. The tests get this text.
pub(super) fn lacking(version: &str) -> String {
    let all = FEATURES.iter().chain(&OF_TESTS);
    all.filter(|feature| !feature.expected(version))
        .map(|feature| feature.name)
        .collect::<Vec<_>>()
        .join(",")
}

/// One run of a program in a machine. It is one line of the table.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Its name, one word.
    pub(super) name: &'static str,
    /// Longest time that it may take.
    pub(super) limit: Duration,
    /// The command line.
    pub(super) command: String,
}

/// Tests of one program. They are chosen by the beginnings of their names.
struct Tests {
    name: &'static str,
    program: &'static str,
    names: &'static [&'static str],
}

/// The step that reports the kernel's features.
pub(super) const FEATURES_STEP: &str = "features";

/// Number of frames on which host and kernel are compared. `cargo xtask fuzz` uses a million.
const FRAMES: u32 = 10_000;
/// Longest time that a step may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// Tests that run only in the whole matrix. The reduced run leaves them to this machine's kernel.
const ELSEWHERE: [&str; 2] = ["comparison", "wire"];

const TESTS: &[Tests] = &[
    Tests { name: FEATURES_STEP, program: "kernel", names: &["features::"] },
    Tests { name: "load", program: "kernel", names: &["verifier::"] },
    Tests { name: "frames", program: "kernel", names: &["frame_table::"] },
    Tests { name: "grants", program: "kernel", names: &["grants::"] },
    Tests { name: "sessions", program: "kernel", names: &["sessions::"] },
    Tests { name: "comparison", program: "kernel", names: &["comparison::"] },
    Tests { name: "wire", program: "kernel", names: &["wire::"] },
    Tests { name: "native", program: "hooks", names: &["rungs::native_xdp_holds"] },
    Tests { name: "generic", program: "hooks", names: &["rungs::generic_xdp_holds"] },
    Tests { name: "tc", program: "hooks", names: &["kernels::the_best_tc_hook"] },
    Tests { name: "clsact", program: "hooks", names: &["rungs::tc_by_a_classifier"] },
    Tests { name: "tun", program: "hooks", names: &["rungs::a_device_without_an_ethernet_header"] },
    Tests { name: "tunnels", program: "hooks", names: &["tunnels::"] },
    Tests { name: "devices", program: "hooks", names: &["devices::"] },
    Tests {
        name: "mtu_9000",
        program: "hooks",
        names: &["kernels::frames_of_nine_thousand_bytes"],
    },
    Tests { name: "no_links", program: "hooks", names: &["kernels::a_kernel_without_xdp_links"] },
    Tests {
        name: "guard",
        program: "guard",
        names: &["ways::an_interface_without_a_gate", "ways::a_grant_ends_on_time_at_the_guard"],
    },
    Tests {
        name: "guard_note",
        program: "hooks",
        names: &["kernels::a_guard_that_knows_loopback"],
    },
    Tests {
        name: "connections",
        program: "lifecycle",
        names: &[
            "connections::an_established_session",
            "connections::a_session_that_is_open",
            "connections::a_prefix_covers",
            "connections::every_connection_under_a_grant",
        ],
    },
    Tests { name: "expiry", program: "lifecycle", names: &["connections::a_grant_ends_on_time"] },
    Tests {
        name: "restart",
        program: "lifecycle",
        // Tests that do not need a fast machine.
        names: &[
            "restarts::sigterm_detaches_nothing",
            "restarts::pushes_and_revocations",
            "restarts::with_the_agent_dead",
        ],
    },
];

/// The names of all steps.
pub(super) fn names() -> Vec<&'static str> {
    TESTS.iter().map(|tests| tests.name).collect()
}

/// The steps for a kernel of this version. `reduced`: only those of the reduced run.
pub(super) fn steps(version: &str, reduced: bool) -> Vec<Step> {
    let environment = format!(
        "JIT_AGENT_PROGRAMS={PROGRAMS} JIT_TEST_KERNEL_LACKS={} JIT_TEST_FRAMES={FRAMES}",
        lacking(version)
    );
    TESTS
        .iter()
        .filter(|tests| !reduced || !ELSEWHERE.contains(&tests.name))
        .map(|Tests { name, program, names }| Step {
            name,
            limit: LIMIT,
            command: format!("{environment} {PROGRAMS}/{program} --nocapture {}", names.join(" ")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_known_to_lack_what_came_later() {
        let oldest = "frags,tcx,ingress_ifindex,verified_instructions,guard_test_run";
        assert_eq!(lacking("5.10.262-1"), oldest);
        assert_eq!(lacking("5.17.0"), "frags,tcx");
        assert_eq!(lacking("7.2.13-1"), "");
    }

    #[test]
    fn names_of_steps_are_one_word_and_unique() {
        let names: std::collections::BTreeSet<_> = TESTS.iter().map(|tests| tests.name).collect();
        assert_eq!(names.len(), TESTS.len());
        assert!(ELSEWHERE.iter().all(|name| names.contains(name)));
        assert!(names.iter().all(|name| !name.contains(' ')));
    }
}
