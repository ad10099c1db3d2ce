//! `[[signer]]`: the trusted keys, and what each of them may sign.

use std::path::Path;

use jit_proto::toml_value::{duration, moment};

use crate::{
    config::{limits::DEFAULT_MAX_DURATION, raw, value::parsed},
    rules::{
        keyring::{Keyring, Signer},
        mandate::Mandate,
    },
    system::sys,
};

/// Reads the files of all keys. Relative paths start in `directory`, that of the configuration.
pub(super) fn keyring(signers: Vec<raw::Signer>, directory: &Path) -> Result<Keyring, String> {
    let mut keyring = Keyring::default();
    for signer in signers {
        let name = signer.id.clone();
        add_signer(&mut keyring, signer, directory)
            .map_err(|error| format!("[[signer]] {name:?}: {error}"))?;
    }
    Ok(keyring)
}

fn add_signer(keyring: &mut Keyring, raw: raw::Signer, directory: &Path) -> Result<(), String> {
    let raw::Signer { id, public_key, signs, ports, sources, max_duration, not_before, not_after } =
        raw;
    if id.is_empty() {
        return Err("id is empty".into());
    }
    if keyring.signers().iter().any(|signer| signer.id == id) {
        return Err("the id is in two sections".into());
    }
    let mandate = Mandate {
        grants: signs.contains(&raw::Signs::Grant),
        max_duration: max_duration
            .map_or(Ok(DEFAULT_MAX_DURATION), |text| duration("max_duration", &text))?,
        not_after: moment("not_after", not_after)?,
        not_before: moment("not_before", not_before)?,
        policies: signs.contains(&raw::Signs::Policy),
        ports: parsed("ports", ports)?,
        sources: parsed("sources", sources)?,
    };
    if signs.is_empty() {
        return Err(
            "signs is empty: the key could sign nothing; leave it out for grants only".into()
        );
    }
    if !mandate.grants && (mandate.ports.is_some() || mandate.sources.is_some()) {
        return Err("ports and sources limit grants, but `signs` does not list \"grant\"".into());
    }
    if let (Some(from), Some(to)) = (mandate.not_before, mandate.not_after)
        && to <= from
    {
        return Err(format!("not_after {to} is not later than not_before {from}"));
    }
    let path = directory.join(&public_key);
    let pem = sys::read_trusted(&path).map_err(|error| format!("public_key: {error}"))?;
    let signer = Signer::from_pem(id, mandate.max_duration, &pem)
        .map_err(|error| format!("public_key {}: {error}", path.display()))?;
    keyring.add(signer.with_mandate(mandate)).map_err(|error| error.to_string())
}
