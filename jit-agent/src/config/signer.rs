//! `[[signer]]`: the trusted keys, and what each of them may sign.

use std::path::{Path, PathBuf};

use jit_proto::{
    PayloadType,
    toml_value::{duration, moment},
};
use serde::{Deserialize, Serialize};

use crate::{
    config::{
        limits::DEFAULT_MAX_DURATION,
        raw,
        value::{line_at, parsed},
    },
    rules::{
        keyring::{Keyring, Signer},
        mandate::Mandate,
    },
    system::sys,
};

/// The content of a signer's key file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct KeyFile {
    /// The signer's id.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// The public key, PEM.
    pub pem: String,
}

/// A key file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFault {
    /// The signer's id.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// The line of the configuration that names the file.
    pub line: usize,
    /// What was tried, and why it failed.
    pub why: String,
    /// The kept copy of the key is used; otherwise the signer is absent.
    pub kept: bool,
}

/// The signers of a configuration.
#[derive(Debug, Default)]
pub(super) struct Signers {
    /// Those whose key can be used.
    pub(super) keyring: Keyring,
    /// The keys in it.
    pub(super) files: Vec<KeyFile>,
    /// The files that cannot be used.
    pub(super) faults: Vec<KeyFault>,
    /// What each section may sign, whether its key can be used or not.
    mandates: Vec<Mandate>,
}

impl Signers {
    /// Reads the files of all keys. Relative paths start in `directory`, that of the configuration.
    /// For a file that cannot be used, the kept copy of the same key is taken.
    ///
    /// # Errors
    /// A section is wrong, whatever its file says.
    pub(super) fn read(
        signers: Vec<raw::Signer>,
        (text, directory): (&str, &Path),
        kept: &[KeyFile],
    ) -> Result<Self, String> {
        let mut read = Self::default();
        let mut ids = Vec::new();
        for signer in signers {
            let id = signer.id.clone();
            let at = |why: String| format!("[[signer]] {id:?}: {why}");
            if ids.contains(&id) {
                return Err(at("the id is in two sections".into()));
            }
            let mandate = mandate(&signer).map_err(at)?;
            let path = directory.join(signer.public_key.get_ref());
            let line = line_at(text, signer.public_key.span().start);
            read.add(KeyFile { id: id.clone(), path, pem: String::new() }, line, &mandate, kept);
            read.mandates.push(mandate);
            ids.push(id);
        }
        Ok(read)
    }

    /// The number of sections that may sign payloads of this type. A key that cannot be read for a
    /// moment changes no threshold.
    pub(super) fn number_of(&self, payload: PayloadType) -> usize {
        self.mandates.iter().filter(|mandate| mandate.signs(payload)).count()
    }

    fn add(&mut self, file: KeyFile, line: usize, mandate: &Mandate, kept: &[KeyFile]) {
        let fresh = sys::read_trusted(&file.path)
            .map_err(|error| format!("public_key: {error}"))
            .and_then(|pem| self.take(KeyFile { pem, ..file.clone() }, mandate));
        let Err(why) = fresh else { return };
        let same = |one: &&KeyFile| one.id == file.id && one.path == file.path;
        let copy = kept.iter().find(same).cloned();
        let kept = copy.is_some_and(|copy| self.take(copy, mandate).is_ok());
        self.faults.push(KeyFault { id: file.id, path: file.path, line, why, kept });
    }

    fn take(&mut self, file: KeyFile, mandate: &Mandate) -> Result<(), String> {
        let signer = Signer::from_pem(file.id.clone(), mandate.max_duration, &file.pem)
            .map_err(|error| format!("public_key {}: {error}", file.path.display()))?;
        let added = self.keyring.add(signer.with_mandate(mandate.clone()));
        added.map_err(|error| error.to_string())?;
        self.files.push(file);
        Ok(())
    }
}

/// What a section lets its key sign.
fn mandate(raw: &raw::Signer) -> Result<Mandate, String> {
    let raw::Signer { id, signs, ports, sources, max_duration, not_before, not_after, .. } = raw;
    if id.is_empty() {
        return Err("id is empty".into());
    }
    let mandate = Mandate {
        grants: signs.contains(&raw::Signs::Grant),
        max_duration: max_duration
            .as_ref()
            .map_or(Ok(DEFAULT_MAX_DURATION), |text| duration("max_duration", text))?,
        not_after: moment("not_after", not_after.clone())?,
        not_before: moment("not_before", not_before.clone())?,
        policies: signs.contains(&raw::Signs::Policy),
        ports: parsed("ports", ports.clone())?,
        sources: parsed("sources", sources.clone())?,
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
    Ok(mandate)
}

impl KeyFault {
    /// The fault as a sentence.
    pub fn text(&self) -> String {
        let Self { id, path: _, line, why, kept } = self;
        let instead = if *kept {
            "the copy of the key that was kept when it could be read is used"
        } else {
            "nothing that this key signs opens"
        };
        format!("line {line}: [[signer]] {id:?}: {why}; {instead}")
    }
}
