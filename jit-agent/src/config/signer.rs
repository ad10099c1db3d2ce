//! `[[signer]]` and `[[approver]]`: the trusted keys, and what each of them may sign.

use std::path::PathBuf;

use jit_proto::{
    PayloadType,
    toml_value::{duration, moment},
    webauthn::{RelyingParty, RelyingPartyError},
    wrong::{Place, Places, Wrongs},
};
use serde::{Deserialize, Serialize};
use toml::Spanned;

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
    /// The kind of its section: `signer` or `approver`.
    pub section: &'static str,
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
    /// What each section may sign, whether its key can be used or not, and whether it is a
    /// `[[signer]]`.
    mandates: Vec<(Mandate, bool)>,
}

/// A section with a key.
struct Section {
    kind: Kind,
    id: String,
    public_key: Spanned<PathBuf>,
    mandate: Mandate,
}

/// How the key of a section signs.
enum Kind {
    Signer,
    /// `None`: for whom is a mistake of the file, and no key is made of it.
    Approver(Option<RelyingParty>),
}

impl Signers {
    /// Reads the files of all keys. For a file that cannot be used, the kept copy of the same key is
    /// taken. Wrong is a section, whatever its file says.
    pub(super) fn read(
        signers: Vec<raw::Signer>,
        approvers: Vec<raw::Approver>,
        base: &Base<'_>,
        kept: &[KeyFile],
        wrongs: &mut Wrongs,
    ) -> Self {
        let mut read = Self::default();
        let mut ids = Vec::new();
        let mut sections: Vec<_> = Vec::with_capacity(signers.len() + approvers.len());
        for (index, signer) in signers.into_iter().enumerate() {
            let path = format!("signer.{index}");
            sections.push((Section::new(signer, Kind::Signer, &path, wrongs), path));
        }
        for (index, approver) in approvers.into_iter().enumerate() {
            let path = format!("approver.{index}");
            sections.push((Section::approver(approver, &path, wrongs), path));
        }
        for (section, path) in sections {
            let Section { kind, id, .. } = &section;
            if ids.contains(id) {
                let what = format!("[[{}]] {id:?}: the id is in two sections", kind.section());
                wrongs.add(format!("{path}.id"), what);
            } else {
                ids.push(id.clone());
                read.add(&section, base, kept);
            }
            read.mandates.push((section.mandate, matches!(section.kind, Kind::Signer)));
        }
        read
    }

    /// The most sections that can sign one payload of this type: approvers count beside a signer
    /// only. A key that cannot be read for a moment changes no threshold.
    pub(super) fn number_of(&self, payload: PayloadType) -> usize {
        let all = || self.mandates.iter().filter(|(mandate, _)| mandate.signs(payload));
        if all().any(|(_, is_signer)| *is_signer) { all().count() } else { 0 }
    }

    fn add(&mut self, section: &Section, base: &Base<'_>, kept: &[KeyFile]) {
        let Section { kind, id, public_key, .. } = section;
        // A key without a place was put in for one that is missing, which is said already.
        let (Some(files), false) = (base.files, public_key.span().is_empty()) else { return };
        let line = line_at(base.text, public_key.span().start);
        let path = base.path(public_key.get_ref().clone());
        let file = KeyFile { id: id.clone(), path, pem: String::new() };
        let fresh = files
            .read(&file.path)
            .map_err(|error| format!("public_key: {error}"))
            .and_then(|pem| self.take(KeyFile { pem, ..file.clone() }, section));
        let Err(why) = fresh else { return };
        let same = |one: &&KeyFile| one.id == file.id && one.path == file.path;
        let copy = kept.iter().find(same).cloned();
        let kept = copy.is_some_and(|copy| self.take(copy, section).is_ok());
        let KeyFile { id, path, .. } = file;
        let section = kind.section();
        self.faults.push(KeyFault { section, id, path, line, why, kept });
    }

    fn take(&mut self, file: KeyFile, section: &Section) -> Result<(), String> {
        let Section { kind, mandate, .. } = section;
        let signer = Signer::from_pem(file.id.clone(), mandate.max_duration, &file.pem)
            .map_err(|error| format!("public_key {}: {error}", file.path.display()))?
            .with_mandate(mandate.clone());
        let signer = match kind {
            Kind::Signer => signer,
            Kind::Approver(Some(party)) => signer.as_approver(party.clone()),
            Kind::Approver(None) => return Ok(()),
        };
        let added = self.keyring.add(signer);
        added.map_err(|error| error.to_string())?;
        self.files.push(file);
        Ok(())
    }
}

impl Section {
    /// `path`: where it is.
    fn new(raw: raw::Signer, kind: Kind, path: &str, wrongs: &mut Wrongs) -> Self {
        let mandate = mandate(&raw, kind.section(), path, wrongs);
        let raw::Signer { id, public_key, .. } = raw;
        Self { kind, id, public_key, mandate }
    }

    fn approver(raw: raw::Approver, path: &str, wrongs: &mut Wrongs) -> Self {
        let raw::Approver {
            id,
            public_key,
            rp_id,
            origins,
            ports,
            sources,
            max_duration,
            not_before,
            not_after,
        } = raw;
        let party = RelyingParty::new(&rp_id, origins);
        if let Err(error) = &party {
            let key = match error {
                RelyingPartyError::Id(_) => "rp_id",
                RelyingPartyError::NoOrigin | RelyingPartyError::Origin { .. } => "origins",
            };
            wrongs.add(format!("{path}.{key}"), format!("[[approver]] {id:?}: {key}: {error}"));
        }
        let signs = vec![raw::Signs::Grant];
        let limits = raw::Signer {
            id,
            public_key,
            signs,
            ports,
            sources,
            max_duration,
            not_before,
            not_after,
        };
        Self::new(limits, Kind::Approver(party.ok()), path, wrongs)
    }
}

impl Kind {
    /// What the file calls such a section.
    const fn section(&self) -> &'static str {
        match self {
            Self::Signer => "signer",
            Self::Approver(_) => "approver",
        }
    }
}

/// What a section lets its key sign. `name`: what the file calls it. `path`: where it is.
fn mandate(raw: &raw::Signer, name: &str, path: &str, all: &mut Wrongs) -> Mandate {
    let raw::Signer { id, signs, ports, sources, max_duration, not_before, not_after, .. } = raw;
    let at = |why: String| format!("[[{name}]] {id:?}: {why}");
    let mut wrongs = Wrongs::default();
    if id.is_empty() {
        wrongs.add("id", at("id is empty".into()));
    }
    let longest = max_duration
        .as_ref()
        .map_or(Ok(DEFAULT_MAX_DURATION), |text| duration("max_duration", text));
    let moment = |key: &str, text: &Option<String>| moment(key, text.clone()).map_err(at);
    let mandate = Mandate {
        checkpoints: signs.contains(&raw::Signs::Checkpoint),
        grants: signs.contains(&raw::Signs::Grant),
        max_duration: wrongs.or("max_duration", longest.map_err(at), DEFAULT_MAX_DURATION),
        not_after: wrongs.or("not_after", moment("not_after", not_after), None),
        not_before: wrongs.or("not_before", moment("not_before", not_before), None),
        policies: signs.contains(&raw::Signs::Policy),
        ports: parsed("ports", ports.clone(), at, &mut wrongs),
        revocations: signs.contains(&raw::Signs::Revocation),
        sources: parsed("sources", sources.clone(), at, &mut wrongs),
    };
    if signs.is_empty() {
        let why = "signs is empty: the key could sign nothing; leave it out for grants only";
        wrongs.add("signs", at(why.into()));
    } else if mandate.checkpoints && signs.iter().any(|one| *one != raw::Signs::Checkpoint) {
        let why = "a key that signs checkpoints signs nothing else: it is always at hand";
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
        let Self { section, id, path: _, line, why, kept: _ } = self;
        let index = places.index_of(section, "id", id);
        let place = index.and_then(|index| places.at(&format!("{section}.{index}.public_key")));
        let place = place.unwrap_or(Place { line: *line, column: 1 });
        Mistake { place: Some(place), text: format!("[[{section}]] {id:?}: {why}") }
    }

    /// The fault as a sentence.
    pub fn text(&self) -> String {
        let Self { section, id, path: _, line, why, kept } = self;
        let instead = if *kept {
            "the copy of the key that was kept when it could be read is used"
        } else {
            "nothing that this key signs opens"
        };
        format!("line {line}: [[{section}]] {id:?}: {why}; {instead}")
    }
}
