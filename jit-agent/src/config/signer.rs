//! `[[signer]]`: the trusted keys, and what each of them may sign.

use std::path::PathBuf;

use jit_proto::{
    PayloadType,
    toml_value::{duration, moment},
    wrong::{Place, Places, Wrongs},
};
use serde::{Deserialize, Serialize};

use crate::{
    config::{
        base::Base,
        limits::DEFAULT_MAX_DURATION,
        mistakes::Mistake,
        raw,
        value::{line_at, parsed},
    },
    rules::{
        keyring::{Keyring, Signer},
        mandate::Mandate,
    },
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
    /// Reads the files of all keys. For a file that cannot be used, the kept copy of the same key is
    /// taken. Wrong is a section, whatever its file says.
    pub(super) fn read(
        signers: Vec<raw::Signer>,
        base: &Base<'_>,
        kept: &[KeyFile],
        wrongs: &mut Wrongs,
    ) -> Self {
        let mut read = Self::default();
        let mut ids = Vec::new();
        for (index, signer) in signers.into_iter().enumerate() {
            let path = format!("signer.{index}");
            let id = signer.id.clone();
            let mandate = mandate(&signer, &path, wrongs);
            if ids.contains(&id) {
                let what = format!("[[signer]] {id:?}: the id is in two sections");
                wrongs.add(format!("{path}.id"), what);
            } else {
                let span = signer.public_key.span();
                let line = line_at(base.text, span.start);
                let file = base.path(signer.public_key.into_inner());
                // A key without a place was put in for one that is missing, which is said already.
                if !span.is_empty() {
                    let file = KeyFile { id: id.clone(), path: file, pem: String::new() };
                    read.add(file, line, &mandate, (base, kept));
                }
                ids.push(id);
            }
            read.mandates.push(mandate);
        }
        read
    }

    /// The number of sections that may sign payloads of this type. A key that cannot be read for a
    /// moment changes no threshold.
    pub(super) fn number_of(&self, payload: PayloadType) -> usize {
        self.mandates.iter().filter(|mandate| mandate.signs(payload)).count()
    }

    fn add(
        &mut self,
        file: KeyFile,
        line: usize,
        mandate: &Mandate,
        (base, kept): (&Base<'_>, &[KeyFile]),
    ) {
        let Some(files) = base.files else { return };
        let fresh = files
            .read(&file.path)
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

/// What a section lets its key sign. `path`: that of the section.
fn mandate(raw: &raw::Signer, path: &str, all: &mut Wrongs) -> Mandate {
    let raw::Signer { id, signs, ports, sources, max_duration, not_before, not_after, .. } = raw;
    let at = |why: String| format!("[[signer]] {id:?}: {why}");
    let mut wrongs = Wrongs::default();
    if id.is_empty() {
        wrongs.add("id", at("id is empty".into()));
    }
    let longest = max_duration
        .as_ref()
        .map_or(Ok(DEFAULT_MAX_DURATION), |text| duration("max_duration", text));
    let moment = |key: &str, text: &Option<String>| moment(key, text.clone()).map_err(at);
    let mandate = Mandate {
        grants: signs.contains(&raw::Signs::Grant),
        max_duration: wrongs.or("max_duration", longest.map_err(at), DEFAULT_MAX_DURATION),
        not_after: wrongs.or("not_after", moment("not_after", not_after), None),
        not_before: wrongs.or("not_before", moment("not_before", not_before), None),
        policies: signs.contains(&raw::Signs::Policy),
        ports: parsed("ports", ports.clone(), at, &mut wrongs),
        sources: parsed("sources", sources.clone(), at, &mut wrongs),
    };
    if signs.is_empty() {
        let why = "signs is empty: the key could sign nothing; leave it out for grants only";
        wrongs.add("signs", at(why.into()));
    } else if !mandate.grants && (ports.is_some() || sources.is_some()) {
        let why = "ports and sources limit grants, but `signs` does not list \"grant\"";
        wrongs.add("signs", at(why.into()));
    }
    if let (Some(from), Some(to)) = (mandate.not_before, mandate.not_after)
        && to <= from
    {
        wrongs.add("not_after", at(format!("not_after {to} is not later than not_before {from}")));
    }
    all.add_below(path, wrongs);
    mandate
}

impl KeyFault {
    /// The same as a mistake of the file.
    pub(super) fn mistake(&self, places: &Places<'_>) -> Mistake {
        let Self { id, path: _, line, why, kept: _ } = self;
        let index = places.index_of("signer", "id", id);
        let place = index.and_then(|index| places.at(&format!("signer.{index}.public_key")));
        let place = place.unwrap_or(Place { line: *line, column: 1 });
        Mistake { place: Some(place), text: format!("[[signer]] {id:?}: {why}") }
    }

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
