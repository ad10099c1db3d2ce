//! Stable codes of what happens. A code is never used again for something else.

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $id:literal $name:literal,)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code: a letter and three digits.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            /// The one with this code.
            pub fn of_id(id: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.id() == id)
            }

            /// The name of the event.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

codes! {
    /// An account was made or changed.
    AccountChanged = "A001" "account_changed",
    /// A token was made.
    TokenMade = "A002" "token_made",
    /// A token was revoked.
    TokenRevoked = "A003" "token_revoked",
    /// A public key was registered for an account.
    KeyAdded = "A004" "account_key_added",
    /// A public key of an account was revoked.
    KeyRevoked = "A005" "account_key_revoked",
    /// A browser signed in.
    SignedIn = "A006" "signed_in",
    /// A sign-in was refused.
    SignInRefused = "A007" "sign_in_refused",
    /// A browser signed out.
    SignedOut = "A008" "signed_out",
    /// An account got a password, or another one.
    PasswordSet = "A009" "password_set",
    /// A person registered a passkey.
    PasskeyAdded = "A010" "passkey_added",
    /// A passkey was removed.
    PasskeyRemoved = "A011" "passkey_removed",
    /// A passkey got another name.
    PasskeyRenamed = "A012" "passkey_renamed",
    /// Somebody has made a revocation that is signed.
    ClosingMade = "C001" "revocation_made",
    /// Every host has carried it out.
    ClosingComplete = "C002" "revocation_complete",
    /// A host refuses it.
    ClosingRefused = "C003" "revocation_refused",
    /// A token was made with which hosts enrol.
    EnrolmentTokenMade = "E001" "enrolment_token_made",
    /// Such a token was revoked.
    EnrolmentTokenRevoked = "E002" "enrolment_token_revoked",
    /// A machine has enrolled as a host.
    Enrolled = "E003" "host_enrolled",
    /// A machine wants to be a host that there is, or another one: a person must decide.
    EnrolmentWaits = "E004" "enrolment_waits",
    /// A person has let such a machine in, or refused it.
    EnrolmentDecided = "E005" "enrolment_decided",
    /// The signer's process has issued a certificate of a host.
    CertificateIssued = "E006" "certificate_issued",
    /// A host's certificate is not renewed.
    NotRenewed = "E007" "certificate_not_renewed",
    /// A host was added or changed.
    HostChanged = "H001" "host_changed",
    /// A host was removed.
    HostRemoved = "H002" "host_removed",
    /// A host's agent is in another condition.
    HostCondition = "H003" "host_condition",
    /// Something about a host must be looked at: a clone, another id, an audit that was cut.
    HostAlarm = "H004" "host_alarm",
    /// An administrator has looked at the alarms of a host.
    HostAlarmsCleared = "H005" "host_alarms_cleared",
    /// The end of a host's audit, as it reported it.
    HostAuditHead = "H006" "host_audit_head",
    /// Rules were saved.
    RulesSaved = "L001" "rules_saved",
    /// A policy was signed.
    PolicySigned = "P001" "policy_signed",
    /// A rollout began, or its state changed.
    RolloutChanged = "P002" "rollout_changed",
    /// A host answered to a policy.
    PolicyAnswered = "P003" "policy_answered",
    /// A policy of Defender's API was put or removed.
    DefenderChanged = "P004" "defender_policy_changed",
    /// A request was submitted.
    Submitted = "R001" "request_submitted",
    /// Somebody agreed.
    Approved = "R002" "request_approved_by",
    /// Somebody said no.
    Denied = "R003" "request_denied_by",
    /// Enough people have agreed, or none is needed.
    Granted = "R004" "request_approved",
    /// The requester took it back.
    Withdrawn = "R005" "request_withdrawn",
    /// Nobody agreed in time.
    Expired = "R006" "request_expired",
    /// Others were asked too.
    Escalated = "R007" "request_escalated",
    /// A grant was signed.
    Signed = "R008" "grant_signed",
    /// The signer refused.
    SigningRefused = "R009" "signing_refused",
    /// A host answered.
    Answered = "R010" "host_answered",
    /// Somebody ended it.
    Revoked = "R011" "request_revoked",
    /// Its time has passed.
    Ended = "R012" "request_ended",
    /// Another request replaces it.
    Replaced = "R013" "request_replaced",
    /// An attempt that the controller refused by name: an own approval, a scope that is missing.
    Refused = "R014" "attempt_refused",
    /// The controller started.
    Started = "S001" "controller_started",
    /// The controller was restored from a backup: what came after that is not known.
    Restored = "S003" "controller_restored",
    /// The signer started, with these keys.
    SignerStarted = "S002" "signer_started",
    /// A webhook was made, changed or removed.
    WebhookChanged = "W001" "webhook_changed",
    /// A webhook failed for too long and is not called any more.
    WebhookDisabled = "W002" "webhook_disabled",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Code;

    #[test]
    fn every_code_has_its_heading_in_the_documentation() {
        let text = include_str!("../../../docs/controller-audit.md");
        let headings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let codes = Code::ALL.iter().map(|code| format!("{} {}", code.id(), code.name()));
        let mut codes: Vec<_> = codes.collect();
        codes.sort();
        assert_eq!(headings, codes, "docs/controller-audit.md, by code");
    }

    #[test]
    fn codes_and_names_are_unique_and_well_formed() {
        let ids: BTreeSet<_> = Code::ALL.iter().map(|code| code.id()).collect();
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!((ids.len(), names.len()), (Code::ALL.len(), Code::ALL.len()));
        for id in ids {
            assert!(id.len() == 4 && id[1..].bytes().all(|byte| byte.is_ascii_digit()), "{id}");
        }
    }
}
