//! What `init` did, and what to do next: a page for a person, or JSON.

use std::path::PathBuf;

use serde::Serialize;

use super::{Draft, InitArgs, choices::Choices, files::Places, survey::Survey};
use crate::oncall::finding::Finding;

/// Version of the JSON. Goes up when a field goes or changes its meaning.
const SCHEMA: u32 = 1;

/// What was chosen and done.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema_version: u32,
    /// The configuration.
    pub(super) config: PathBuf,
    /// It is on the disk.
    pub(super) written: bool,
    /// Where the edited configuration before it is kept.
    pub(super) kept: Option<PathBuf>,
    host: String,
    ports: Vec<String>,
    sources: Vec<String>,
    /// Sources that need no grant until `exempt_until`.
    exempt: Vec<String>,
    exempt_until: Option<String>,
    /// Connected now to one of the ports, and not exempt: shut out once the gate enforces.
    connected: Vec<String>,
    signers: Vec<String>,
    controllers: Vec<String>,
    /// `[control]` is in force: the certificates are there.
    listens: bool,
    /// The hubs of `[uplink]`.
    hubs: Vec<String>,
    /// `[uplink]` is in force: the certificates are there.
    dials: bool,
    key: Option<PathBuf>,
    /// The key was made now.
    pub(super) key_is_new: Option<bool>,
    /// The request for a certificate.
    request: Option<PathBuf>,
    /// What the gate would not see, as `doctor` says it.
    pub(super) around: Vec<Finding>,
    /// Commands, in their order.
    next: Vec<String>,
    /// What would be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
}

impl Report {
    pub(super) fn new(
        args: &InitArgs,
        choices: &Choices,
        draft: &Draft,
        places: &Places,
        survey: &Survey,
    ) -> Self {
        let exempt = choices.exempt.iter().map(|one| match one.port {
            Some(port) => format!("{} on {}/{}", one.source, port.port, port.protocol.word()),
            None => one.source.to_string(),
        });
        let exempt: Vec<_> = exempt.collect();
        Self {
            schema_version: SCHEMA,
            config: places.config.clone(),
            written: false,
            kept: None,
            host: choices.host.clone(),
            ports: choices.ports.iter().map(ToString::to_string).collect(),
            sources: choices.sources.iter().map(ToString::to_string).collect(),
            exempt_until: (!exempt.is_empty()).then(|| choices.until.to_string()),
            exempt,
            connected: choices.connected.iter().map(|peer| peer.source.clone()).collect(),
            signers: choices.signers.iter().map(|signer| signer.id.clone()).collect(),
            controllers: choices.controllers.clone(),
            listens: draft.ready && choices.listen.is_some(),
            hubs: choices.hubs.iter().map(ToString::to_string).collect(),
            dials: draft.ready && !choices.hubs.is_empty(),
            key: (!args.no_key).then(|| places.key()),
            key_is_new: None,
            request: (!args.no_key).then(|| places.request()),
            around: Vec::new(),
            next: next(args, choices, draft, places, survey),
            text: None,
        }
    }

    /// For a person.
    pub(super) fn page(&self) -> String {
        if let Some(text) = &self.text {
            return text.clone();
        }
        let mut lines = vec![format!(
            "{}  host {:?}, observe mode: nobody is shut out",
            self.config.display(),
            self.host
        )];
        let mut list = |label: &str, values: &[String]| {
            if !values.is_empty() {
                lines.push(format!("  {label:<12}{}", values.join("  ")));
            }
        };
        list("ports", &self.ports);
        list("sources", &self.sources);
        list("exempt", &self.exempt);
        list("connected", &self.connected);
        list("signers", &self.signers);
        list("controllers", &self.controllers);
        list("hubs", &self.hubs);
        if let Some(until) = &self.exempt_until {
            lines.push(format!("  exemptions end at {until}"));
        }
        if let Some(kept) = &self.kept {
            lines.push(format!("  the configuration before is kept as {}", kept.display()));
        }
        if let (Some(key), Some(request)) = (&self.key, &self.request) {
            let made = if self.key_is_new == Some(true) { "made" } else { "kept" };
            lines.push(format!("  key {made}: {}  request: {}", key.display(), request.display()));
        }
        for finding in &self.around {
            let about = if finding.about.is_empty() { "" } else { " " };
            lines.push(format!(
                "warning: {}{about}{}: {}",
                finding.check, finding.about, finding.seen
            ));
        }
        lines.push("next:".to_owned());
        lines.extend(self.next.iter().map(|command| format!("  {command}")));
        lines.join("\n") + "\n"
    }
}

/// The next commands: the certificate, the service, the trial.
fn next(
    args: &InitArgs,
    choices: &Choices,
    draft: &Draft,
    places: &Places,
    survey: &Survey,
) -> Vec<String> {
    let mut next = Vec::new();
    if choices.signers.is_empty() {
        next.push(format!(
            "jit-agent init --force --signer FILE    # a signer's public key: without one no grant opens \
             anything, and {} has nothing to enforce",
            choices.host
        ));
    }
    if !draft.ready && !args.no_key {
        let name = survey.name.as_deref().unwrap_or("agent");
        next.push(format!(
            "jitctl pki issue --dir pki --name {name} --csr {}    # where the CA is; then put agent.pem and \
             ca.pem beside the key, and run init again",
            places.request().display()
        ));
    }
    next.push("systemctl enable --now jit-agent    # it observes: jit-agent status".into());
    next.push("jit-agent enforce    # then, in a NEW SSH session: jit-agent confirm".into());
    next
}
