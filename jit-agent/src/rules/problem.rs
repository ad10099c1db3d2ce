//! What can be wrong with the gate, or around it, each with a stable word.
//!
//! A word never changes its meaning. `status` shows it after the sentence, the audit records it as
//! `alarm`, and docs/runbook.md has a heading for each; a test checks it.

use std::fmt;

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident => $word:literal;)*) => {
        /// What is wrong.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum ProblemKind { $($(#[$doc])* $name,)* }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name),*];

            /// The stable word, lower case with underscores.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

problems! {
    /// The audit takes no record.
    Audit => "audit";
    /// The audit was changed, or its end is missing.
    AuditDamaged => "audit_damaged";
    /// The kernel's boot id cannot be read.
    BootId => "boot_id";
    /// The agent's certificate has ended.
    Certificate => "certificate";
    /// The wall clock is not trusted.
    Clock => "clock";
    /// Steps of the clock are not reported.
    ClockWatch => "clock_watch";
    /// Closings from a time without the agent cannot be carried on.
    Closings => "closings";
    /// The configuration file is not in force.
    Configuration => "configuration";
    /// No controller can connect.
    Control => "control";
    /// Certificate, key or authorities of `[control]` cannot be used.
    ControlFiles => "control_files";
    /// The kernel's packet counts cannot be read.
    Counters => "counters";
    /// The interfaces cannot be checked, or one was changed by somebody.
    Coverage => "coverage";
    /// The database was damaged and begun anew.
    Database => "database";
    /// The database cannot be opened.
    DatabaseClosed => "database_closed";
    /// The kernel's tables have entries that the agent did not write.
    ForeignEntries => "foreign_entries";
    /// The kernel's tables of ports were changed.
    ForeignPolicy => "foreign_policy";
    /// Two checkpoints have the same number.
    Forked => "forked";
    /// No interface has a gate, and ports are forwarded.
    Forwarded => "forwarded";
    /// No fresh checkpoint has come.
    Frozen => "frozen";
    /// Accepted grants are missing in the database.
    GrantsLost => "grants_lost";
    /// The host's id is not known.
    HostId => "host_id";
    /// The host has another id than before: it is another machine.
    HostIdChanged => "host_id_changed";
    /// An interface has no gate.
    Interface => "interface";
    /// The kernel refuses entries of its tables.
    Kernel => "kernel";
    /// The kernel's reports are not read.
    KernelEvents => "kernel_events";
    /// The configuration in force cannot be kept for the next start.
    LastGood => "last_good";
    /// New interfaces are not reported.
    LinkWatch => "link_watch";
    /// The agent cannot serve the command line.
    LocalSocket => "local_socket";
    /// The log is not read.
    Log => "log";
    /// Nobody can scrape the metrics.
    Metrics => "metrics";
    /// No agent answers.
    NoAgent => "no_agent";
    /// The database's names of grants cannot be read, without the agent.
    NoNames => "no_names";
    /// No interface is to have a gate.
    NoInterface => "no_interface";
    /// No port is protected.
    NoPort => "no_port";
    /// A port is only observed.
    Observe => "observe";
    /// Exemptions open a port to everybody.
    OpenToAll => "open_to_all";
    /// An opening from a time without the agent cannot be taken over.
    Openings => "openings";
    /// Grants that the present configuration would refuse are open.
    Outside => "outside";
    /// A program of somebody else takes packets before the gate.
    PassedBy => "passed_by";
    /// The pins of the tables cannot be checked or put back.
    Pins => "pins";
    /// The policy allows what nobody can use.
    Policy => "policy";
    /// The pins of another version cannot be removed.
    RetiredPins => "retired_pins";
    /// An earlier checkpoint came after a later one.
    RolledBack => "rolled_back";
    /// There is no reserve of disk for revocations.
    Reserve => "reserve";
    /// The loaded program does not decide as it must.
    SelfTest => "self_test";
    /// Sessions that have ended may be open still.
    Sessions => "sessions";
    /// A signal cannot be received.
    Signal => "signal";
    /// A signer's key cannot be used.
    Signer => "signer";
    /// The socket guard is not in force.
    SocketGuard => "socket_guard";
    /// Another program decides beside the socket guard.
    SocketGuardOverruled => "socket_guard_overruled";
    /// The database takes nothing.
    Storage => "storage";
    /// A configuration is in force on trial.
    Trial => "trial";
    /// Translated connections cannot be followed.
    Translations => "translations";
    /// A connection came in that no grant explains.
    UnexplainedConnection => "unexplained_connection";
    /// The kernel's tables cannot be read.
    UnreadableTables => "unreadable_tables";
    /// There is no connection to a hub.
    Uplink => "uplink";
    /// Certificate, key or authorities of `[uplink]` cannot be used.
    UplinkFiles => "uplink_files";
    /// Something that was signed for this host has not arrived.
    Withheld => "withheld";
}

/// A problem's stable name: its kind, and which of several things has it, such as `interface eth1`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ProblemName {
    /// What is wrong.
    pub kind: ProblemKind,
    /// With what, where there are several: "eth1". Otherwise empty.
    pub about: String,
}

impl ProblemKind {
    /// The problem of one of several things.
    pub(crate) fn of(self, about: impl fmt::Display) -> ProblemName {
        ProblemName { kind: self, about: about.to_string() }
    }

    /// A sentence about the problem, for a person: with the heading that the runbook has for it.
    pub(crate) fn sentence(self, text: &str) -> String {
        format!("{text} [{}]", self.word())
    }
}

impl From<ProblemKind> for ProblemName {
    fn from(kind: ProblemKind) -> Self {
        Self { kind, about: String::new() }
    }
}

impl fmt::Display for ProblemName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, about } = self;
        let between = if about.is_empty() { "" } else { " " };
        write!(formatter, "{}{between}{about}", kind.word())
    }
}
