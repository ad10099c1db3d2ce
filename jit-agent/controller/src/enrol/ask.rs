//! What a host asks for, and what it is answered: a certificate now, or after a person has decided.
//!
//! Who asks once more with the same request gets the same answer, without another proof: a
//! certificate is of use only to the one who has the key of the request.

use super::{
    admit::{self, Decision},
    attest::{azure::Machine, ec2::Instance},
    keys::NotProven,
    nonce,
    opened::Opened,
    proof::{Method, Proof, check_id},
    request::Request,
    token::{self, Taken},
};
use crate::{
    model::Host,
    store::{Enrolment, EnrolmentState, OfStore, Store, StoreError, Tx, again, hosts},
};

/// The most hosts with the label of one machine that are looked at.
const MOST_HOSTS: u32 = 3;

const NO_TOKEN: &str = "the token does not count: it is another one, has ended, was withdrawn, or has been \
                        used as often as it may be";

/// What a host sends to prove who it is.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How it proves it.
    pub method: Method,
    /// The token, or what its cloud has signed.
    pub proof: String,
    /// The host that it is; empty: the proof says so.
    pub host: String,
    /// The nonce in what its cloud has signed; empty: there is none.
    pub nonce: String,
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the host: its certificate is issued, or will be in a moment.
    Issued {
        /// The enrolment.
        enrolment: String,
        /// The host.
        host: String,
    },
    /// A person decides.
    Waits {
        /// The enrolment.
        enrolment: String,
        /// The host.
        host: String,
    },
}

/// Why it is answered with a refusal.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// What it sent cannot be used.
    #[error("{field}: {why}")]
    Field {
        /// The field.
        field: &'static str,
        /// Why, in words.
        why: String,
    },
    /// What it would be believed by cannot be read now; in words.
    #[error("{0}")]
    Down(String),
    /// It is not believed; in words.
    #[error("{0}")]
    Refused(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OfStore for AskError {
    fn of_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Down(_) | Self::Field { .. } | Self::Refused(_) => None,
        }
    }
}

impl From<NotProven> for AskError {
    fn from(error: NotProven) -> Self {
        match error {
            NotProven::Down(why) => Self::Down(why),
            NotProven::Token(why) => Self::Refused(why.to_string()),
        }
    }
}

/// What is claimed, as far as it can be checked without a change of the store.
enum Claim {
    Azure { machine: Machine, hosts: Vec<Host> },
    Ec2(Instance),
    Proven(Proof),
    Token,
}

/// Answers a host.
///
/// # Errors
/// [`AskError`]: then nothing was kept.
pub async fn ask(
    store: &Store,
    opened: &Opened,
    request: &Request,
    asked: &Asked,
    now_ms: i64,
) -> Result<Outcome, AskError> {
    if let Some(known) = store.enrolment_of_request(request.sha256()).await? {
        let is_other = asked.method == Method::Token && asked.host != known.host;
        if !is_other && let Some(outcome) = of_known(store, known).await? {
            return Ok(outcome);
        }
    }
    again(|| admitted(store, opened, request, asked, now_ms)).await
}

/// What follows from an enrolment with the same request; `None`: another one has taken its place.
async fn of_known(store: &Store, known: Enrolment) -> Result<Option<Outcome>, AskError> {
    let Enrolment { id: enrolment, host, state, .. } = known;
    match state {
        EnrolmentState::Waiting => Ok(Some(Outcome::Waits { enrolment, host })),
        EnrolmentState::Refused => Err(AskError::Refused(
            "a person has refused this request; make a new key to ask again".into(),
        )),
        EnrolmentState::Issued if store.enrolment_counts(&enrolment).await? => {
            Ok(Some(Outcome::Issued { enrolment, host }))
        }
        EnrolmentState::Issued => Ok(None),
    }
}

async fn admitted(
    store: &Store,
    opened: &Opened,
    request: &Request,
    asked: &Asked,
    now_ms: i64,
) -> Result<Outcome, AskError> {
    let claim = claim(store, opened, asked, now_ms).await?;
    let mut tx = store.begin().await?;
    let (proof, token) = prove(&mut tx, claim, asked, now_ms).await?;
    let host = proof.host_id().to_owned();
    let (token, believed) = (token.as_ref(), opened.believed());
    let admitted = admit::admit(&mut tx, &proof, request, token, &believed, now_ms).await?;
    let (decision, kept) = admitted;
    let enrolment = kept.map(|one| one.id).unwrap_or_default();
    let outcome = match decision {
        Decision::Again(enrolment) => Outcome::Issued { enrolment, host },
        Decision::Issue => Outcome::Issued { enrolment, host },
        Decision::Wait(_) => Outcome::Waits { enrolment, host },
        Decision::Waiting(enrolment) => Outcome::Waits { enrolment, host },
        // The use of the token comes back: the transaction is not committed.
        Decision::Refuse(why) => return Err(AskError::Refused(why)),
    };
    tx.commit().await?;
    Ok(outcome)
}

async fn claim(
    store: &Store,
    opened: &Opened,
    asked: &Asked,
    now_ms: i64,
) -> Result<Claim, AskError> {
    let off = |cloud: &str| {
        AskError::Refused(format!(
            "this controller does not believe {cloud}: it is not in [enrolment]"
        ))
    };
    let refused = |why: &dyn ToString| AskError::Refused(why.to_string());
    match asked.method {
        Method::Token => {
            check_id(&asked.host).map_err(|why| AskError::Field { field: "host", why })?;
            // Who guesses takes no turn among those who change something.
            match token::counts(store, &asked.proof, now_ms).await? {
                true => Ok(Claim::Token),
                false => Err(refused(&NO_TOKEN)),
            }
        }
        Method::Ec2 => {
            let ec2 = opened.ec2.as_ref().ok_or_else(|| off("EC2"))?;
            Ok(Claim::Ec2(ec2.instance(&asked.proof).map_err(|why| refused(&why))?))
        }
        Method::Azure => {
            let azure = opened.azure.as_ref().ok_or_else(|| off("Azure"))?;
            let machine = azure.machine(&asked.proof, &asked.nonce, now_ms);
            let machine = machine.map_err(|why| refused(&why))?;
            let label = format!("azure_vm_id={}", machine.vm_id());
            let known = store.hosts_named(&label, "", MOST_HOSTS).await?;
            Ok(Claim::Azure { machine, hosts: known.into_iter().map(|one| one.host).collect() })
        }
        Method::Arc => {
            let arc = opened.arc.as_ref().ok_or_else(|| off("Azure Arc"))?;
            Ok(Claim::Proven(arc.prove(&asked.proof, &asked.host, now_ms).await?))
        }
        Method::Gcp => {
            let gcp = opened.gcp.as_ref().ok_or_else(|| off("Google"))?;
            Ok(Claim::Proven(gcp.prove(&asked.proof, now_ms).await?))
        }
    }
}

async fn prove(
    tx: &mut Tx,
    claim: Claim,
    asked: &Asked,
    now_ms: i64,
) -> Result<(Proof, Option<Taken>), AskError> {
    let refused = |why: &dyn ToString| AskError::Refused(why.to_string());
    let proof = match claim {
        Claim::Token => {
            let token = token::take(tx, &asked.proof, now_ms).await?;
            let token = token.ok_or_else(|| refused(&NO_TOKEN))?;
            let proof = token.prove(&asked.host);
            let proof = proof.map_err(|why| AskError::Field { field: "host", why })?;
            return Ok((proof, Some(token)));
        }
        Claim::Ec2(instance) => {
            let is_expected = hosts::in_any_case(tx, instance.host_id()).await?.is_some();
            instance.prove(is_expected, now_ms).map_err(|why| refused(&why))?
        }
        Claim::Azure { machine, hosts } => {
            if !nonce::take(tx, &asked.nonce, now_ms).await? {
                return Err(refused(&"the nonce was not given here, was used, or has ended"));
            }
            machine.prove(&hosts).map_err(|why| refused(&why))?
        }
        Claim::Proven(proof) => proof,
    };
    Ok((proof, None))
}
