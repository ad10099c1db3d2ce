//! Which of the keys that signed a grant count for it: those whose mandate allows the whole grant
//! (docs/grants.md, step `threshold`). Pure: time is an argument.

use jit_proto::{PortRange, Refusal, SourcePrefix};

use crate::rules::{
    clock::Now,
    grant::VerifiedGrant,
    keyring::Keyring,
    mandate::{Beyond, Mandate},
    refusal::Refused,
};

/// The keys that signed a grant, by the present keyring: how many count, and why the others do not.
pub(super) struct Approvals {
    /// Number of keys that count.
    pub(super) count: usize,
    /// Whether one of these is a `[[signer]]`'s. The keys of approvers do not count without one.
    pub(super) has_signer: bool,
    /// Why an approval by passkey does not count.
    objection: Option<String>,
    /// Names of the keys that signed and do not count, and why.
    beyond: Vec<(String, Beyond)>,
}

impl Approvals {
    /// The approvals of this grant at this time.
    pub(super) fn of(grant: &VerifiedGrant, keyring: &Keyring, now: Now) -> Self {
        Self::by(grant, keyring, |mandate| {
            mandate.valid_at(now.wall)?;
            admits_window(mandate, grant)?;
            admits_places(mandate, grant)
        })
    }

    /// The approvals of a grant that has opened: when a key counts is not judged again.
    pub(super) fn of_open(grant: &VerifiedGrant, keyring: &Keyring) -> Self {
        Self::by(grant, keyring, |mandate| {
            admits_window(mandate, grant)?;
            admits_places(mandate, grant)
        })
    }

    /// The keys of a grant that may open the whole of the one that it replaces.
    pub(super) fn to_replace(
        grant: &VerifiedGrant,
        replaced: &VerifiedGrant,
        keyring: &Keyring,
        now: Now,
    ) -> Self {
        Self::by(grant, keyring, |mandate| {
            mandate.valid_at(now.wall)?;
            admits_places(mandate, replaced)
        })
    }

    fn by(
        grant: &VerifiedGrant,
        keyring: &Keyring,
        admits: impl Fn(&Mandate) -> Result<(), Beyond>,
    ) -> Self {
        let objection = grant.objection().map(str::to_owned);
        let mut approvals = Self { count: 0, has_signer: false, objection, beyond: Vec::new() };
        for signer in keyring.signers().iter().filter(|key| grant.keys().contains(&key.key_id())) {
            match signs_grants(&signer.mandate).and_then(|()| admits(&signer.mandate)) {
                Ok(()) => {
                    approvals.count += 1;
                    approvals.has_signer |= signer.approver().is_none();
                }
                Err(beyond) => approvals.beyond.push((signer.id.clone(), beyond)),
            }
        }
        approvals
    }

    /// The refusal of a grant for which no key counts: that of the first key.
    pub(super) fn refusal(&self) -> Refused {
        match self.beyond.first() {
            Some((id, Beyond { refusal, detail })) => {
                Refused::new(*refusal, format!("the key {id:?} {detail}"))
            }
            None => {
                let detail = "the keys that signed it are no longer trusted";
                Refused::new(Refusal::UnknownKey, detail)
            }
        }
    }

    /// The end of a sentence, about the keys and approvals that do not count; empty when there are
    /// none.
    pub(super) fn others(&self) -> String {
        let others = self.beyond.iter().map(|(id, beyond)| format!("{id:?} {}", beyond.detail));
        others.chain(self.objection.clone()).map(|other| format!("; {other}")).collect()
    }
}

fn signs_grants(mandate: &Mandate) -> Result<(), Beyond> {
    if mandate.grants {
        return Ok(());
    }
    let detail = "signs policies, not grants".to_owned();
    Err(Beyond { refusal: Refusal::UnknownKey, detail })
}

/// Whether the key may sign a window of this length.
fn admits_window(mandate: &Mandate, grant: &VerifiedGrant) -> Result<(), Beyond> {
    let lifetime = grant.not_after().since(grant.not_before()).unwrap_or_default();
    if lifetime <= mandate.max_duration {
        return Ok(());
    }
    let most = mandate.max_duration;
    let detail = format!("signs for at most {most:.0?}, and this grant lasts {lifetime:.0?}");
    Err(Beyond { refusal: Refusal::Lifetime, detail })
}

/// Whether the key may sign for all ports and sources of this grant.
fn admits_places(mandate: &Mandate, grant: &VerifiedGrant) -> Result<(), Beyond> {
    let within = |port: &PortRange| match &mandate.ports {
        None => true,
        Some(ranges) => port.ports().all(|port| ranges.iter().any(|range| range.has(port))),
    };
    if let Some(port) = grant.ports().iter().find(|port| !within(port)) {
        let detail = format!("does not sign for {port}");
        return Err(Beyond { refusal: Refusal::PortNotAllowed, detail });
    }
    let inside = |source: &SourcePrefix| match &mandate.sources {
        None => true,
        Some(allowed) => allowed.iter().any(|allowed| allowed.contains(source)),
    };
    if let Some(source) = grant.sources().iter().find(|source| !inside(source)) {
        let detail = format!("does not sign for the source {source}");
        return Err(Beyond { refusal: Refusal::SourceNotAllowed, detail });
    }
    Ok(())
}
