//! `[freshness]`: the host expects checkpoints, and so notices what is withheld from it.

use std::fmt;

use jit_proto::{PayloadType, wrong::Wrongs};

use crate::config::{raw, signer::Signers};

/// What the host does beside saying that something may be withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStale {
    /// It opens no grant that may have been withheld.
    RefuseNew,
    /// Nothing.
    Report,
}

impl fmt::Display for OnStale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RefuseNew => "refuse_new",
            Self::Report => "report",
        })
    }
}

/// Checks a `[freshness]`.
pub(super) fn freshness(on_stale: raw::OnStale, signers: &Signers, wrongs: &mut Wrongs) -> OnStale {
    if signers.number_of(PayloadType::Checkpoint) == 0 {
        let what =
            "[freshness]: no [[signer]] has signs = [\"checkpoint\"], so no checkpoint counts";
        wrongs.add("freshness", what.to_owned());
    }
    match on_stale {
        raw::OnStale::RefuseNew => OnStale::RefuseNew,
        raw::OnStale::Report => OnStale::Report,
    }
}
