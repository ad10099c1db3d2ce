//! The kinds of audit records, each with its stable code and name.
//!
//! Codes and names never change their meaning and are never used again. docs/audit.md has a heading
//! for each; a test checks it.

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident => $code:literal, $word:literal;)*) => {
        /// The code of an audit record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventCode { $($(#[$doc])* $name,)* }

        impl EventCode {
            /// Every code.
            pub const ALL: [Self; [$($code),*].len()] = [$(Self::$name),*];

            /// The stable code: a letter and three digits.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The stable name, lower case with underscores.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

codes! {
    /// A new link carries the gate.
    GateAttached => "A001", "gate_attached";
    /// A pinned link of an earlier run carries the new program.
    GateAdopted => "A002", "gate_adopted";
    /// An interface has lost its gate.
    GateLost => "A003", "gate_lost";
    /// A lost gate is back.
    GateRestored => "A004", "gate_restored";
    /// The program is attached through a worse hook than the best one.
    GateSteppedDown => "A005", "gate_stepped_down";
    /// `jit-agent detach`: every protected port is open.
    GateDetached => "A006", "gate_detached";
    /// Root on the machine opened a port without a grant.
    BreakGlass => "B001", "break_glass";
    /// An opening by root has ended.
    BreakGlassEnded => "B002", "break_glass_ended";
    /// The file of an opening that root did not make, or that cannot be taken over.
    OpeningRefused => "B003", "opening_refused";
    /// A trial ended without a confirmation: the configuration before is in force again.
    TrialLapsed => "B004", "trial_lapsed";
    /// A connection that a grant let in.
    Connection => "C001", "connection";
    /// The number of connections in a minute beyond those that are recorded one by one.
    ConnectionsSummed => "C002", "connections_summed";
    /// Established connections of a source were ended together with their grant.
    ConnectionCut => "C003", "connection_cut";
    /// A revocation was ordered to end sessions, too.
    SessionsCut => "C004", "sessions_cut";
    /// Sessions were ended by `jit-agent close` while the agent did not answer.
    SessionsEndedPast => "C006", "sessions_ended_past";
    /// Two checkpoints contradict each other: somebody has old ones, or the key that signs them.
    CheckpointContradicts => "F001", "checkpoint_contradicts";
    /// A grant was accepted and opens now.
    GrantAdmitted => "G001", "grant_admitted";
    /// A grant was accepted and opens later.
    GrantScheduled => "G002", "grant_scheduled";
    /// A scheduled grant opened.
    GrantActivated => "G003", "grant_activated";
    /// A grant was refused, or taken back because it could not be opened.
    GrantRefused => "G004", "grant_refused";
    /// A grant's window has ended.
    GrantExpired => "G005", "grant_expired";
    /// A grant, or an id that the agent had not seen, was revoked.
    GrantRevoked => "G006", "grant_revoked";
    /// A grant ended because one that replaces it began.
    GrantReplaced => "G007", "grant_replaced";
    /// A grant has let in all the connections that it may.
    GrantExhausted => "G008", "grant_exhausted";
    /// A grant ends sooner, because the wall clock was set forward.
    GrantShortened => "G009", "grant_shortened";
    /// What was signed until a moment is refused from now on.
    RevocationFloor => "G010", "revocation_floor";
    /// A signed revocation was carried out.
    RevocationSigned => "G011", "revocation_signed";
    /// A signed revocation was refused.
    RevocationRefused => "G012", "revocation_refused";
    /// A metadata service gave the host's id, and it is another one than before.
    HostIdentified => "H001", "host_identified";
    /// A hub has had the certificate of `[uplink]` renewed.
    CertificateRenewed => "H002", "certificate_renewed";
    /// A hub has brought a certificate that does not take the place of the one before.
    CertificateRefused => "H003", "certificate_refused";
    /// An entry in the kernel's tables that no grant explains was removed.
    ForeignEntry => "K001", "foreign_entry_removed";
    /// An entry of a grant or an exemption was changed or gone, and was written again.
    EntryRestored => "K002", "entry_restored";
    /// Protected ports, their rules or the settings were changed, and were written again.
    PolicyRestored => "K003", "policy_restored";
    /// A connection was let in that no grant or exemption explains.
    ConnectionUnexplained => "K004", "connection_unexplained";
    /// The first record of all.
    AuditBegun => "L001", "audit_begun";
    /// The first record of a file that follows another, with the signed head of that one.
    AuditRotated => "L002", "audit_rotated";
    /// A half-written last line was kept aside.
    AuditResumed => "L003", "audit_resumed";
    /// Records or files were missing at start.
    AuditDamaged => "L004", "audit_damaged";
    /// Records could not be written and are lost.
    AuditGap => "L005", "audit_gap";
    /// The host's key was made.
    HostKeyMade => "L006", "host_key_made";
    /// The number of records of one kind in a minute beyond those that are written one by one.
    RecordsSummed => "L007", "records_summed";
    /// A peer asked for something that it may not do.
    NotPermitted => "N001", "not_permitted";
    /// A configuration that closes something is in force on trial.
    TrialBegun => "N002", "trial_begun";
    /// The configuration on trial was confirmed.
    TrialConfirmed => "N003", "trial_confirmed";
    /// A signed policy was pushed.
    PolicyPushed => "P001", "policy_pushed";
    /// A policy is in force and waits to be confirmed.
    PolicyArmed => "P002", "policy_armed";
    /// A policy was confirmed.
    PolicyConfirmed => "P003", "policy_confirmed";
    /// A policy was not confirmed in time: the one before is back.
    PolicyReturned => "P004", "policy_returned";
    /// A policy was refused.
    PolicyRefused => "P005", "policy_refused";
    /// Root set the version that the next policy must be higher than.
    PolicyFloorSet => "P006", "policy_floor_set";
    /// The configuration file was read again.
    ConfigurationReloaded => "R001", "configuration_reloaded";
    /// The configuration file was refused; nothing changed.
    ConfigurationRefused => "R002", "configuration_refused";
    /// Another configuration let in what was kept out before; each opening by value.
    ConfigurationOpened => "R003", "configuration_opened";
    /// The agent started with the last good configuration: the file on the disk cannot be used.
    LastGoodUsed => "R004", "last_good_used";
    /// The agent started.
    AgentStarted => "S001", "agent_started";
    /// The agent ends; the gate stays in force.
    AgentStopping => "S002", "agent_stopping";
    /// Something is wrong, as `status` says.
    AlarmRaised => "S003", "alarm_raised";
    /// A problem has ended.
    AlarmCleared => "S004", "alarm_cleared";
    /// The wall clock was set.
    ClockStepped => "S005", "clock_stepped";
    /// The wall clock is earlier than it has been: nothing new opens.
    ClockUntrusted => "S006", "clock_untrusted";
    /// The wall clock is right again.
    ClockTrusted => "S007", "clock_trusted";
    /// The database could not be read and was kept aside.
    DatabaseDamaged => "S008", "database_damaged";
    /// The kernel had open entries that no stored grant explains; they were closed.
    GrantsLost => "S014", "grants_lost";
}

impl EventCode {
    /// Reads a code or a name, in upper or lower case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| {
            code.code().eq_ignore_ascii_case(text) || code.name().eq_ignore_ascii_case(text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_well_formed() {
        for (index, code) in EventCode::ALL.into_iter().enumerate() {
            let (letter, digits) = code.code().split_at(1);
            assert!(letter.bytes().all(|byte| byte.is_ascii_uppercase()), "{}", code.code());
            assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()));
            for other in EventCode::ALL.into_iter().skip(index + 1) {
                assert_ne!(code.code(), other.code());
                assert_ne!(code.name(), other.name());
            }
            assert_eq!(EventCode::parse(code.name()), Some(code));
            assert_eq!(EventCode::parse(&code.code().to_lowercase()), Some(code));
        }
    }
}
