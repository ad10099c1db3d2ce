//! Every family of the metrics, with its name and its meaning. Pure.
//!
//! A family has at least one number in every scrape, so that an alert about it is never silent for
//! want of a number. Those that hang on something that a host may not have say so.

use std::{collections::BTreeMap, fmt, time::Duration};

use jit_common::Reason;
use jit_proto::{Hook, PortRange, Refusal, v1};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use crate::{
    control::metrics::page::{Labels, Page},
    disk::sizes::Sizes,
    gate::measure::{Clock, Grants, Measured},
    system::{
        log::LogState,
        meters::{Seconds, meters},
    },
};

/// The words of the states, and of an interface without a program.
const STATES: [&str; 3] = ["enforcing", "degraded", "not_enforcing"];
const UNGATED: [&str; 3] = ["excluded", "guard_only", "none"];
/// The most interfaces that have a number of their own, and the most [[port]] sections.
const MAX_INTERFACES: usize = 128;
const MAX_PORTS: usize = 256;
/// The label of ports that have no number of their own.
const OTHERS: &str = "others";

/// What one scrape shows.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    pub(super) measured: Measured,
    pub(super) sizes: Sizes,
    pub(super) log: LogState,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.state(&mut page)?;
        self.interfaces(&mut page)?;
        self.drops(&mut page)?;
        self.grants(&mut page)?;
        self.control(&mut page)?;
        self.uplink(&mut page)?;
        self.freshness(&mut page)?;
        self.configuration(&mut page)?;
        self.host(&mut page)?;
        times(&mut page)
    }
}

impl Scrape {
    fn state(&self, page: &mut Page<'_>) -> fmt::Result {
        let v1::StatusResponse { state, version, problems, mode, started_at_ms, .. } =
            &self.measured.status;
        page.gauges(
            "build_info",
            "1, with the version of the agent",
            [(&[("version", version.as_str())] as Labels<'_>, 1_i64)],
        )?;
        one_of(page, "state", "1 for the state of the gate, 0 for the others", &STATES, state)?;
        page.gauge("problems", "Problems that status shows now", count(problems.len()))?;
        page.gauge(
            "observe",
            "1: the whole gate is in observe mode and drops nothing",
            flag(mode == "observe"),
        )?;
        page.gauge(
            "start_timestamp_seconds",
            "When the agent started, Unix time",
            seconds(*started_at_ms),
        )
    }

    fn interfaces(&self, page: &mut Page<'_>) -> fmt::Result {
        let v1::StatusResponse { interfaces, guard, .. } = &self.measured.status;
        let mut hooks: BTreeMap<&str, i64> = BTreeMap::new();
        hooks.extend(Hook::ALL.into_iter().map(|hook| (hook.word(), 0)));
        hooks.extend(UNGATED.into_iter().map(|word| (word, 0)));
        for interface in interfaces {
            *hooks.entry(&interface.hook).or_default() += 1;
        }
        let labels: Vec<_> =
            hooks.iter().map(|(hook, count)| ([("hook", *hook)], *count)).collect();
        page.gauges(
            "interfaces",
            "Interfaces by hook",
            labels.iter().map(|(labels, count)| (&labels[..], *count)),
        )?;
        let mut shown: Vec<_> = interfaces.iter().filter(|one| one.hook != UNGATED[0]).collect();
        // If there are too many, those without a gate have their numbers.
        shown.sort_by_key(|one| (one.attached, one.index));
        shown.truncate(MAX_INTERFACES);
        let shown: Vec<_> = shown
            .into_iter()
            .map(|one| ([("interface", one.name.as_str()), ("hook", &one.hook)], one.attached))
            .collect();
        page.gauges(
            "interface_gated",
            "1: the interface has a gate, 0: it should have one; without those that are left out",
            shown.iter().map(|(labels, gated)| (&labels[..], flag(*gated))),
        )?;
        page.gauge(
            "socket_guard_attached",
            "1: the socket guard is in force",
            flag(guard.as_ref().is_some_and(|guard| guard.attached)),
        )
    }

    fn drops(&self, page: &mut Page<'_>) -> fmt::Result {
        let none = v1::Drops::default();
        let drops = self.measured.status.drops.as_ref().unwrap_or(&none);
        let of = |reason: Reason| {
            let counters = drops.by_reason.iter().filter(|one| one.reason == reason.word());
            counters.map(|one| one.packets).sum()
        };
        let dropping = Reason::ALL.into_iter().filter(|reason| reason.drops());
        let by_reason: Vec<_> =
            dropping.map(|reason| ([("reason", reason.word())], of(reason))).collect();
        page.counters(
            "dropped_packets",
            "Packets that were dropped, or that observe mode let pass instead, by reason",
            by_reason.iter().map(|(labels, packets)| (&labels[..], *packets)),
        )?;
        let by_port = by_port(&self.measured.status.ports, &drops.by_port);
        let by_port: Vec<_> = by_port
            .iter()
            .map(|((port, reason), packets)| {
                ([("port", port.as_str()), ("reason", *reason)], *packets)
            })
            .collect();
        page.counters(
            "port_dropped_packets",
            "The same by protected port and reason, where the packet had a port",
            by_port.iter().map(|(labels, packets)| (&labels[..], *packets)),
        )?;
        page.counter(
            "observed_packets",
            "Packets that only observe mode let pass",
            drops.observed,
        )?;
        page.counter(
            "socket_guard_refusals",
            "Look-ups of a listening socket that the socket guard refused",
            drops.guard,
        )?;
        let lost = drops.events_lost.saturating_add(meters().events_missed.get());
        page.counter(
            "events_suppressed",
            "Drop events above the kernel's limit: counted, not reported one by one",
            drops.events_suppressed,
        )?;
        page.counter(
            "events_lost",
            "Events of the kernel that the agent did not take in time",
            lost,
        )
    }

    fn grants(&self, page: &mut Page<'_>) -> fmt::Result {
        let Grants { active, scheduled, break_glass } = self.measured.grants;
        let meters = meters();
        page.gauges(
            "grants",
            "Grants that are held, by state",
            [
                (&[("state", "active")] as Labels<'_>, count(active)),
                (&[("state", "scheduled")], count(scheduled)),
            ],
        )?;
        page.gauge(
            "break_glass_open",
            "Openings by root without a signed grant that are in force",
            count(break_glass),
        )?;
        self.capacity(page)?;
        page.counters(
            "grants_accepted",
            "Pushed grants that were accepted, by result",
            [
                (&[("result", "ok")] as Labels<'_>, meters.admitted.get()),
                (&[("result", "known")], meters.known.get()),
                (&[("result", "scheduled")], meters.scheduled.get()),
            ],
        )?;
        let refused: Vec<_> = Refusal::ALL
            .into_iter()
            .filter_map(|one| Some(([("reason", one.word())], meters.refused(one)?.get())))
            .collect();
        page.counters(
            "grants_refused",
            "Pushed grants that were refused, by reason",
            refused.iter().map(|(labels, number)| (&labels[..], *number)),
        )?;
        page.counter("grants_revoked", "Grants that a revocation ended", meters.revoked.get())?;
        page.counter(
            "closings",
            "Closings that were made past the agent and that it carried on",
            meters.closings.get(),
        )?;
        page.counter("sessions_cut", "Sessions that were ended", meters.sessions_cut.get())
    }

    fn capacity(&self, page: &mut Page<'_>) -> fmt::Result {
        let capacity = self.measured.status.capacity.unwrap_or_default();
        let v1::Capacity { host_entries, host_entries_max, .. } = capacity;
        let v1::Capacity { prefix_entries, prefix_entries_max, .. } = capacity;
        let hosts: Labels<'_> = &[("table", "hosts")];
        let prefixes: Labels<'_> = &[("table", "prefixes")];
        page.gauges(
            "capacity_used_entries",
            "Entries in the kernel's tables of grants",
            [(hosts, host_entries), (prefixes, prefix_entries)],
        )?;
        page.gauges(
            "capacity_limit_entries",
            "The most entries that fit",
            [(hosts, host_entries_max), (prefixes, prefix_entries_max)],
        )
    }

    fn control(&self, page: &mut Page<'_>) -> fmt::Result {
        let Measured { signers, signers_unusable, controllers, status, .. } = &self.measured;
        page.gauges(
            "signers",
            "Signers of the configuration, by whether their key can be used",
            [
                (&[("state", "usable")] as Labels<'_>, count(*signers)),
                (&[("state", "unusable")], count(*signers_unusable)),
            ],
        )?;
        page.gauge("controllers", "Controllers of the configuration", count(*controllers))?;
        page.counter(
            "connections_failed",
            "Connections to the port for controllers that came to nothing",
            meters().connections_failed.get(),
        )?;
        let Some(control) = &status.control else { return Ok(()) };
        page.gauge(
            "listening",
            "1: controllers can connect (only with a [control])",
            flag(control.listening),
        )?;
        page.gauge(
            "controller_connections",
            "Connections of controllers now (only with a [control])",
            control.connections,
        )?;
        page.gauge(
            "controller_connections_limit",
            "The most connections of controllers (only with a [control])",
            control.connections_max,
        )?;
        page.gauge(
            "last_push_timestamp_seconds",
            "Last accepted push since the agent started, Unix time; 0: none (only with a [control])",
            seconds(control.last_push_ms),
        )?;
        match control.certificate_not_after_ms {
            0 => Ok(()),
            end => page.gauge(
                "certificate_end_timestamp_seconds",
                "End of the certificate that controllers see, Unix time (only with a [control])",
                seconds(end),
            ),
        }
    }

    fn uplink(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(uplink) = &self.measured.status.uplink else { return Ok(()) };
        page.gauge(
            "uplink_connected",
            "1: a hub is connected (only with an [uplink])",
            flag(uplink.connected),
        )?;
        page.gauge(
            "uplink_since_timestamp_seconds",
            "Since when the hub is connected, Unix time; 0: none is (only with an [uplink])",
            seconds(uplink.since_ms),
        )?;
        page.counter(
            "uplink_connects",
            "Connections to hubs since the agent started (only with an [uplink])",
            uplink.connects,
        )?;
        page.counter(
            "uplink_failures",
            "Attempts that failed and connections that were lost (only with an [uplink])",
            uplink.failures,
        )?;
        page.gauge(
            "uplink_spare",
            "1: a spare connection to another hub waits (only with an [uplink])",
            flag(!uplink.spare.is_empty()),
        )
    }

    fn freshness(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(freshness) = &self.measured.status.freshness else { return Ok(()) };
        page.gauge(
            "checkpoint_timestamp_seconds",
            "The moment of the last checkpoint, Unix time; 0: none (only with a [freshness])",
            seconds(freshness.issued_at_ms),
        )?;
        page.gauge(
            "checkpoint_frozen",
            "1: no fresh checkpoint has come (only with a [freshness])",
            flag(freshness.state == "frozen"),
        )?;
        page.gauge(
            "checkpoint_withheld",
            "1: something that was signed for this host has not arrived (only with a [freshness])",
            flag(freshness.state == "withheld"),
        )?;
        page.counter(
            "checkpoint_contradictions",
            "Checkpoints that contradicted an earlier one since the start (only with a [freshness])",
            freshness.contradictions,
        )
    }

    fn configuration(&self, page: &mut Page<'_>) -> fmt::Result {
        let v1::StatusResponse { configuration, policy, trial, .. } = &self.measured.status;
        let configuration = configuration.clone().unwrap_or_default();
        page.gauge(
            "configuration_in_force_timestamp_seconds",
            "Since when the configuration in force is as it is, Unix time",
            seconds(configuration.in_force_since_ms),
        )?;
        page.gauge(
            "configuration_file_in_force",
            "1: the file on the disk is in force, 0: it is refused",
            flag(configuration.refused.is_empty()),
        )?;
        page.gauge(
            "configuration_last_good",
            "1: the agent started with the kept copy of the last good configuration",
            flag(configuration.last_good),
        )?;
        let trial = trial.as_ref();
        let left = trial.filter(|trial| trial.ended.is_empty()).map(|trial| trial.left_ms);
        page.gauge(
            "trial_end_timestamp_seconds",
            "When the configuration on trial ends unless it is confirmed, Unix time; 0: none is",
            left.map_or(0.0, |left| seconds(self.measured.clock.wall.0.saturating_add(left))),
        )?;
        page.gauge(
            "trial_lapsed",
            "1: nobody confirmed the last configuration on trial, and the one before is in force",
            flag(trial.is_some_and(|trial| trial.ended == "lapsed")),
        )?;
        let policy = policy.as_ref();
        page.gauge(
            "policy_version",
            "Version of the pushed policy in force; 0: the host's own file",
            policy.map_or(0, |policy| policy.version),
        )?;
        page.gauge(
            "policy_unconfirmed",
            "1: a policy waits to be confirmed",
            flag(policy.is_some_and(|policy| policy.confirm_left_ms > 0)),
        )
    }

    fn host(&self, page: &mut Page<'_>) -> fmt::Result {
        let Clock { wall, floor, trusted } = self.measured.clock;
        page.gauge(
            "clock_timestamp_seconds",
            "The host's wall clock at the scrape, Unix time",
            seconds(wall.0),
        )?;
        page.gauge(
            "clock_floor_timestamp_seconds",
            "The latest time that the wall clock was trusted to show, Unix time",
            seconds(floor.0),
        )?;
        page.gauge(
            "clock_trusted",
            "1: the wall clock is right enough to open something new",
            flag(trusted),
        )?;
        if let Some(bytes) = self.sizes.database {
            page.gauge("database_size_bytes", "Size of the database", bytes)?;
        }
        if let Some(bytes) = self.sizes.audit {
            page.gauge("audit_size_bytes", "Size of all files of the audit", bytes)?;
        }
        page.gauge(
            "audit_limit_bytes",
            "The most that the files of the audit can take",
            self.measured.audit_limit,
        )?;
        page.counter(
            "foreign_entries",
            "Entries and settings in the kernel's tables that the agent did not write, and mended",
            self.measured.status.foreign,
        )?;
        page.counter("log_lines_dropped", "Lines of the log that nobody took", self.log.dropped)
    }
}

fn times(page: &mut Page<'_>) -> fmt::Result {
    let meters = meters();
    let mut add = |name: &str, help: &str, Seconds(of): &Seconds| page.histogram(name, help, of);
    add(
        "push_duration_seconds",
        "Time of a push in the agent, from the request to its outcome",
        &meters.push,
    )?;
    add(
        "signatures_duration_seconds",
        "Time to verify a push, or a slice of one",
        &meters.signatures,
    )?;
    add(
        "database_commit_duration_seconds",
        "Time of a transaction of the database",
        &meters.commit,
    )?;
    add(
        "opening_duration_seconds",
        "Time to write the grants of a push to the kernel's tables",
        &meters.opening,
    )
}

/// A gauge for each of these words: 1 for the present one.
fn one_of(
    page: &mut Page<'_>,
    name: &'static str,
    help: &str,
    words: &[&str],
    present: &str,
) -> fmt::Result {
    let labels: Vec<_> = words.iter().map(|word| ([(name, *word)], *word == present)).collect();
    page.gauges(name, help, labels.iter().map(|(labels, is)| (&labels[..], flag(*is))))
}

/// Dropped packets by [[port]] section and reason. A section has a number for `denied` from the
/// start, so that the first drop shows as an increase. Ports of no section are one.
fn by_port(
    sections: &[v1::Port],
    counters: &[v1::PortCounter],
) -> BTreeMap<(String, &'static str), u64> {
    let ranges = sections.iter().filter_map(|section| section.range.as_ref());
    let ranges = ranges.filter_map(|range| PortRange::try_from(range).ok()).take(MAX_PORTS);
    let ranges: Vec<_> = ranges.map(|range| (range, range.to_string())).collect();
    let mut packets: BTreeMap<_, u64> =
        ranges.iter().map(|(_, name)| ((name.clone(), Reason::Denied.word()), 0)).collect();
    for counter in counters {
        let port = PortRange::try_from(&v1::PortRange {
            protocol: counter.protocol,
            first: counter.port,
            last: counter.port,
        });
        let port = port.ok().and_then(|port| port.ports().next());
        let section = ranges.iter().find(|(range, _)| port.is_some_and(|port| range.has(port)));
        let name = section.map_or(OTHERS, |(_, name)| name);
        for v1::Counter { reason, packets: more } in &counter.by_reason {
            let dropping = Reason::ALL.into_iter().find(|one| one.drops() && one.word() == *reason);
            let Some(reason) = dropping else { continue };
            let sum = packets.entry((name.to_owned(), reason.word())).or_default();
            *sum = sum.saturating_add(*more);
        }
    }
    packets
}

/// Seconds of milliseconds since the Unix epoch. Times before it are 0.
fn seconds(millis: i64) -> f64 {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0)).as_secs_f64()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn flag(is: bool) -> i64 {
    i64::from(is)
}
