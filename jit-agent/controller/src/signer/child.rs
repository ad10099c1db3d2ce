//! The signer's process: reads, checks, writes its journal, signs, answers. One thread, nothing else.

use std::{
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    process::ExitCode,
};

use jit_proto::{
    GrantId,
    payload_type::{GRANT_TYPE, POLICY_TYPE, REVOCATION_TYPE},
    v1,
};
use sha2::{Digest as _, Sha256};

use super::{
    KeyInfo, SignRequest,
    authority::CertificateWish,
    check, confine,
    freshness::CheckpointWish,
    issuing::{Held, NotIssued},
    journal::{Entry, Journal, JournalError, Kind},
    keys::{self, Keys},
    limits::Rate,
    protocol::{self, Answer, Ask, FromSigner, ToSigner},
    refused::Refused,
    revocation::{self, Closes},
    settings::{Limits, Settings},
    stamping::{self, NotSigned},
};
use crate::clock::now_ms;

/// Runs `jit-controller signer`: the controller starts it, with one of a pair of sockets as standard
/// input. It ends when the controller closes the other one.
pub fn child() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _gone = writeln!(io::stderr(), "jit-controller signer: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    let by_hand = "it is started by `jit-controller serve`, not by hand";
    let socket = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let socket = socket.map_err(|error| format!("{by_hand}: {error}"))?;
    socket.peer_addr().map_err(|error| format!("{by_hand}: {error}"))?;
    confine::begin().map_err(|error| format!("cannot protect the process: {error}"))?;
    let broken = |error: io::Error| format!("the connection to the controller broke: {error}");
    let settings = match protocol::read(&socket).map_err(broken)? {
        Some(ToSigner::Open(settings)) => settings,
        Some(ToSigner::Ask { .. }) => return Err("it was asked before it was opened".into()),
        None => return Ok(()),
    };
    let mut signer = match Open::new(*settings) {
        Ok(signer) => signer,
        Err(why) => {
            protocol::write(&socket, &FromSigner::Failed(why.clone())).map_err(broken)?;
            return Err(why);
        }
    };
    protocol::write(&socket, &FromSigner::Ready { keys: signer.infos() }).map_err(broken)?;
    while let Some(message) = protocol::read(&socket).map_err(broken)? {
        let ToSigner::Ask { number, ask } = message else {
            return Err("it was opened twice".into());
        };
        let (answer, end) = match signer.answer(ask, now_ms()) {
            Ok(answer) => (answer, None),
            Err(Lost(why)) => (Answer::Unavailable(why.clone()), Some(why)),
        };
        protocol::write(&socket, &FromSigner::Answer { number, answer }).map_err(broken)?;
        if let Some(why) = end {
            return Err(format!("{why}; it begins again"));
        }
    }
    Ok(())
}

/// The journal or a key is lost: only a new start helps.
struct Lost(String);

/// The signer with its keys.
struct Open {
    limits: Limits,
    /// What signs checkpoints only has none.
    journal: Option<Journal>,
    keys: Keys,
    rate: Rate,
    revocation_keys: Keys,
    /// Of revocations: what opens holds up nothing that closes.
    revocation_rate: Rate,
    /// Of those that close less than everything: they leave a part of that rate to it.
    narrow_rate: Rate,
    /// Who issues certificates of hosts.
    authority: Option<Held>,
    /// What signs checkpoints.
    freshness: Option<stamping::Held>,
}

impl Open {
    /// Opens journal and keys, then closes the process.
    fn new(settings: Settings) -> Result<Self, String> {
        settings.check_part().map_err(|error| error.to_string())?;
        let Settings { journal, keys, revocation_keys, limits, authority, freshness } = settings;
        let signs = !keys.is_empty() || !revocation_keys.is_empty();
        let journal = signs.then(|| Journal::open(&journal, now_ms())).transpose()?;
        let stamps = freshness.iter().map(|one| &one.key);
        let needs = keys::needs(keys.iter().chain(&revocation_keys).chain(stamps));
        let keys = Keys::open(&keys, &[])?;
        let revocation_keys = Keys::open(&revocation_keys, &keys.infos())?;
        let freshness = freshness.as_ref();
        let others = [keys.infos(), revocation_keys.infos()].concat();
        let freshness = freshness.map(|one| stamping::Held::open(one, &others, now_ms()));
        let freshness = freshness.transpose()?;
        let authority = authority.as_ref().map(Held::open).transpose()?;
        confine::close(needs).map_err(|error| format!("cannot close the process: {error}"))?;
        let most = limits.signatures_a_minute;
        // The signatures of a signer that was killed count too.
        let count = usize::try_from(most).unwrap_or(usize::MAX);
        let times = |kinds: &[Kind]| {
            journal.as_ref().map(|journal| journal.last_times(kinds, count)).unwrap_or_default()
        };
        let rate = |kinds| Rate::new(most, times(kinds));
        let before = times(&[Kind::Revocation]);
        let narrow_rate = Rate::new((most - most.div_ceil(5)).max(1), before);
        let (rate, revocation_rate) =
            (rate(&[Kind::Grant, Kind::Policy]), rate(&[Kind::Revocation]));
        Ok(Self {
            limits,
            journal,
            keys,
            rate,
            revocation_keys,
            revocation_rate,
            narrow_rate,
            authority,
            freshness,
        })
    }

    /// All keys, whatever they sign.
    fn infos(&self) -> Vec<KeyInfo> {
        let stamps = self.freshness.iter().flat_map(|freshness| freshness.infos());
        let others = self.revocation_keys.infos().into_iter().chain(stamps);
        self.keys.infos().into_iter().chain(others).collect()
    }

    fn answer(&mut self, ask: Ask, now_ms: i64) -> Result<Answer, Lost> {
        let asked = match ask {
            Ask::Certificate(wish) => return Ok(self.certificate(&wish, now_ms)),
            Ask::Checkpoint(wish) => return self.checkpoint(&wish, now_ms),
            Ask::Grant(request) => self.grant(&request, now_ms),
            Ask::Policy { payload } => self.policy(&payload, now_ms),
            Ask::Revocation { payload } => self.revocation(&payload, now_ms),
        };
        match asked {
            Ok(signatures) => Ok(Answer::Signed(signatures)),
            Err(Trouble::Refused(Refused { word, detail })) => {
                Ok(Answer::Refused { word: word.to_owned(), detail })
            }
            Err(Trouble::TooFast(left)) => Ok(Answer::Unavailable(format!(
                "too_fast: at most {} signatures a minute (limits.signatures_a_minute); again in \
                 {left} ms",
                self.limits.signatures_a_minute
            ))),
            Err(Trouble::Lost(why)) => Err(Lost(why)),
        }
    }

    fn certificate(&mut self, wish: &CertificateWish, now_ms: i64) -> Answer {
        let Some(authority) = &mut self.authority else {
            return Answer::Refused {
                word: "no_authority".to_owned(),
                detail: "there is no [signer.authority] in the configuration".into(),
            };
        };
        match authority.issue(wish, now_ms) {
            Ok(issued) => Answer::Issued(issued),
            Err(NotIssued::Refused(Refused { word, detail })) => {
                Answer::Refused { word: word.to_owned(), detail }
            }
            Err(NotIssued::TooFast(why)) => Answer::Unavailable(why),
        }
    }

    fn checkpoint(&mut self, wish: &CheckpointWish, now_ms: i64) -> Result<Answer, Lost> {
        let Some(freshness) = &mut self.freshness else {
            return Ok(Answer::Refused {
                word: "no_freshness".to_owned(),
                detail: "there is no [signer.freshness] in the configuration".into(),
            });
        };
        match freshness.sign(wish, now_ms) {
            Ok(v1::Envelope { payload, signatures, .. }) => Ok(Answer::Checkpoint {
                payload: payload.to_vec(),
                signatures: signatures.into_iter().map(protocol::Signature::from).collect(),
            }),
            Err(NotSigned::Refused(Refused { word, detail })) => {
                Ok(Answer::Refused { word: word.to_owned(), detail })
            }
            Err(NotSigned::Lost(why)) => Err(Lost(why)),
        }
    }

    fn grant(
        &mut self,
        request: &SignRequest,
        now_ms: i64,
    ) -> Result<Vec<protocol::Signature>, Trouble> {
        let passed = check::grant(request, &self.limits, now_ms)?;
        let hash = |payload: &[u8]| Sha256::digest(payload).into();
        if let Some((id, old)) = passed.narrows {
            let signed_before = Entry { kind: Kind::Grant, id, hash: hash(&old) };
            if !self.journal.as_ref().is_some_and(|journal| journal.has(&signed_before)) {
                let detail = format!("this signer has not signed the grant {id} that it replaces");
                return Err(Refused { word: "unknown_grant", detail }.into());
            }
        }
        let (id, mark) = passed.request;
        let agreed = Entry { kind: Kind::Request, id, hash: mark };
        let payload = &passed.part.payload;
        let grant = Entry { kind: Kind::Grant, id: passed.part.id, hash: hash(payload) };
        self.sign(&[agreed, grant], GRANT_TYPE, payload, now_ms)
    }

    fn policy(&mut self, payload: &[u8], now_ms: i64) -> Result<Vec<protocol::Signature>, Trouble> {
        check::policy(payload, &self.limits, now_ms)?;
        self.sign(&[by_hash(Kind::Policy, payload)], POLICY_TYPE, payload, now_ms)
    }

    fn revocation(
        &mut self,
        payload: &[u8],
        now_ms: i64,
    ) -> Result<Vec<protocol::Signature>, Trouble> {
        if self.revocation_keys.is_empty() {
            let detail = "there are no [[signer.revocation_keys]] in the configuration".to_owned();
            return Err(Refused { word: "no_revocation_keys", detail }.into());
        }
        if revocation::check(payload, now_ms)? == Closes::Some {
            self.narrow_rate.take(now_ms).map_err(Trouble::TooFast)?;
        }
        self.revocation_rate.take(now_ms).map_err(Trouble::TooFast)?;
        self.keep(&[by_hash(Kind::Revocation, payload)], now_ms)?;
        signed(&mut self.revocation_keys, REVOCATION_TYPE, payload)
    }

    fn sign(
        &mut self,
        entries: &[Entry],
        payload_type: &str,
        payload: &[u8],
        now_ms: i64,
    ) -> Result<Vec<protocol::Signature>, Trouble> {
        if self.keys.is_empty() {
            let detail = "this process has no key that signs grants".to_owned();
            return Err(Refused { word: "no_keys", detail }.into());
        }
        self.rate.take(now_ms).map_err(Trouble::TooFast)?;
        self.keep(entries, now_ms)?;
        signed(&mut self.keys, payload_type, payload)
    }

    fn keep(&mut self, entries: &[Entry], now_ms: i64) -> Result<(), Trouble> {
        let journal = self.journal.as_mut();
        let journal = journal.ok_or_else(|| Trouble::Lost("it has no journal".into()))?;
        Ok(journal.keep(entries, now_ms)?)
    }
}

/// An entry for bytes that have no id: a part of their own hash.
fn by_hash(kind: Kind, payload: &[u8]) -> Entry {
    let hash: [u8; 32] = Sha256::digest(payload).into();
    let id = GrantId(hash.first_chunk().copied().unwrap_or_default());
    Entry { kind, id, hash }
}

fn signed(
    keys: &mut Keys,
    payload_type: &str,
    payload: &[u8],
) -> Result<Vec<protocol::Signature>, Trouble> {
    let signed = keys.sign(payload_type, payload).map_err(Trouble::Lost)?;
    Ok(signed.into_iter().map(protocol::Signature::from).collect())
}

enum Trouble {
    Lost(String),
    Refused(Refused),
    /// Time until there is room again, milliseconds.
    TooFast(i64),
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<JournalError> for Trouble {
    fn from(error: JournalError) -> Self {
        let detail = error.to_string();
        match error {
            JournalError::Otherwise(_) => Refused { word: "signed_otherwise", detail }.into(),
            JournalError::TooOld(_) => Refused { word: "too_old", detail }.into(),
            JournalError::Write(_) => Self::Lost(detail),
        }
    }
}
