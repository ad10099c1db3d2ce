//! `jitctl sign` and `jitctl inspect`: a person sees what an envelope says, and adds a signature to it.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use clap::Args;
use jiff::Timestamp;
use jit_client::{
    exit::Exit,
    files::{read, read_text},
    inspect::Inspection,
    keys::{Key, KeySpec, add_signature},
    public_key::PublicKey,
    trusted::Trusted,
};
use jit_proto::words::counted;
use prost::Message as _;

use crate::{
    approvers,
    failure::Failure,
    files::{self, PUBLIC},
    signing::signing_keys,
    text,
};

/// Arguments of `sign`.
#[derive(Args, Debug)]
pub(crate) struct SignArgs {
    /// File with one encoded jit.v1.Envelope
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Key that signs: a PKCS#8 PEM file, ssh-agent:COMMENT, ssh-agent:SHA256:..., or
    /// pkcs11:token=NAME;object=LABEL?module-path=FILE&pin-source=FILE
    #[arg(long, value_name = "KEY")]
    signing_key: KeySpec,
    /// Write the envelope to a new file instead of adding the signature to FILE
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Arguments of `inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// File with one encoded jit.v1.Envelope
    #[arg(value_name = "ENVELOPE")]
    file: PathBuf,
    /// Public key (PEM) to check signatures with, as hosts have it; may be repeated
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    /// File with [[approver]] sections, such as a host's configuration, to check approvals by
    /// passkey with; may be repeated
    #[arg(long, value_name = "FILE")]
    approver: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows an envelope, asks, and adds a signature.
pub(crate) fn sign(args: &SignArgs) -> Result<Exit, Failure> {
    let found = inspected(&args.file, &[])?;
    if let Some(why) = found.malformed.first() {
        return Err(Failure::files(format!(
            "{} is nothing that a host accepts, and is not signed: {why}",
            args.file.display()
        )));
    }
    text::print(&found.text())?;
    let [key] = &signing_keys(std::slice::from_ref(&args.signing_key))?[..] else {
        return Err(Failure::usage("name one key"));
    };
    if !args.yes && !agrees(key)? {
        return Err(Failure::usage("nothing was signed"));
    }
    let mut envelope = found.envelope;
    add_signature(&mut envelope, key)?;
    let bytes = envelope.encode_to_vec();
    let path = match &args.out {
        Some(path) => {
            files::write_new(path, &bytes, PUBLIC)?;
            path
        }
        None => {
            exchange(&args.file, &bytes)?;
            &args.file
        }
    };
    let signatures = counted(envelope.signatures.len(), "signature");
    text::print(&format!("written    {}, now with {signatures}\n", path.display()))?;
    Ok(Exit::Success)
}

/// Shows what a host would check.
pub(crate) fn inspect(args: &InspectArgs) -> Result<Exit, Failure> {
    let named = |path: &PathBuf| -> Result<_, Failure> {
        let pem = read_text(path, "the public key")?;
        let key = PublicKey::from_pem(&pem)
            .map_err(|why| Failure::files(format!("{} is no public key: {why}", path.display())))?;
        Ok(Trusted { name: path.display().to_string(), key, approver: None })
    };
    let mut keys = args.public_key.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    for file in &args.approver {
        keys.extend(approvers::of(file)?);
    }
    let found = inspected(&args.file, &keys)?;
    if args.json {
        text::print_json(&found.json())?;
    } else {
        text::print(&found.text())?;
    }
    Ok(if !found.malformed.is_empty() {
        Exit::Configuration
    } else if !keys.is_empty() && found.good() == 0 {
        Exit::Permission
    } else {
        Exit::Success
    })
}

fn inspected(path: &Path, keys: &[Trusted]) -> Result<Inspection, Failure> {
    let bytes = read(path, "the envelope")?;
    Inspection::of(&bytes, keys, Timestamp::now().as_millisecond())
        .map_err(|why| Failure::files(format!("cannot read {}: {why}", path.display())))
}

/// Asks the person at the terminal.
pub(crate) fn agrees(key: &Key) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nobody can be asked: standard input is no terminal; add --yes if you know what is signed",
        ));
    }
    let public = key.public();
    text::print(&format!(
        "sign it with the {} key {}? [y/N] ",
        public.algorithm(),
        public.key_id()
    ))?;
    let mut answer = String::new();
    let failed = |error| Failure::files(format!("cannot read the answer: {error}"));
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Puts new content into a file: the old or the new one is there, never a part.
fn exchange(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let beside = files::with_suffix(path, ".new");
    files::write_new(&beside, bytes, PUBLIC)?;
    let failed = |error| Failure::files(format!("cannot exchange {}: {error}", path.display()));
    std::fs::rename(&beside, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use jit_client::{
        keys::seal,
        signing::{Algorithm, SigningKey},
    };
    use jit_proto::{PortRange, payload_type::GRANT_TYPE, v1};

    use super::*;

    /// A directory with an envelope and two keys.
    fn place() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let provider = rustls::crypto::ring::default_provider();
        for name in ["one", "other"] {
            let key = SigningKey::generate(Algorithm::P256, provider.secure_random).unwrap();
            let path = directory.path().join(name);
            std::fs::write(files::with_suffix(&path, ".key"), key.to_pem()).unwrap();
            std::fs::write(files::with_suffix(&path, ".pem"), key.public_pem()).unwrap();
        }
        let now = Timestamp::now().as_millisecond();
        let grant = v1::Grant {
            id: vec![1; 16].into(),
            hosts: vec!["web-1".into()],
            sources: vec![v1::Source::from(&"203.0.113.7".parse().unwrap())],
            ports: vec!["22".parse::<PortRange>().unwrap().into()],
            issued_at_ms: now,
            not_before_ms: now,
            not_after_ms: now + 3_600_000,
            requester: "ana".into(),
            justification: "disk full".into(),
            ..v1::Grant::default()
        };
        let envelope = seal(GRANT_TYPE, grant.encode_to_vec(), &[]).unwrap();
        std::fs::write(directory.path().join("grant"), envelope.encode_to_vec()).unwrap();
        directory
    }

    fn sign_with(directory: &Path, key: &str, out: Option<&str>) -> Result<Exit, Failure> {
        sign(&SignArgs {
            file: directory.join("grant"),
            signing_key: KeySpec::Pem(directory.join(key)),
            out: out.map(|name| directory.join(name)),
            yes: true,
        })
    }

    fn inspect_with(directory: &Path, keys: &[&str]) -> Exit {
        let public_key = keys.iter().map(|key| directory.join(key)).collect();
        let file = directory.join("grant");
        inspect(&InspectArgs { file, public_key, approver: Vec::new(), json: true }).unwrap()
    }

    #[test]
    fn signatures_are_added_to_the_file_or_to_a_new_one() {
        let directory = place();
        let path = directory.path();
        let first = std::fs::read(path.join("grant")).unwrap();
        assert_eq!(sign_with(path, "one.key", Some("out")).unwrap(), Exit::Success);
        assert_eq!(std::fs::read(path.join("grant")).unwrap(), first);
        assert_eq!(sign_with(path, "one.key", Some("out")).unwrap_err().exit, Exit::Configuration);
        sign_with(path, "one.key", None).unwrap();
        sign_with(path, "other.key", None).unwrap();
        let twice = sign_with(path, "other.key", None).unwrap_err();
        assert!(twice.to_string().contains("signed this envelope already"), "{twice}");
        let keys: Vec<_> = ["one.pem", "other.pem"]
            .iter()
            .map(|name| {
                let pem = std::fs::read_to_string(path.join(name)).unwrap();
                let key = PublicKey::from_pem(&pem).unwrap();
                Trusted { name: (*name).to_owned(), key, approver: None }
            })
            .collect();
        assert_eq!(inspected(&path.join("grant"), &keys).unwrap().good(), 2);
    }

    #[test]
    fn the_exit_code_says_whether_a_given_key_has_signed() {
        let directory = place();
        let path = directory.path();
        sign_with(path, "one.key", None).unwrap();
        assert_eq!(inspect_with(path, &["one.pem"]), Exit::Success);
        assert_eq!(inspect_with(path, &["other.pem"]), Exit::Permission);
        assert_eq!(inspect_with(path, &["other.pem", "one.pem"]), Exit::Success);
        assert_eq!(inspect_with(path, &[]), Exit::Success);
        let envelope = seal("text/plain", b"x".to_vec(), &[]).unwrap();
        std::fs::write(path.join("grant"), envelope.encode_to_vec()).unwrap();
        assert_eq!(inspect_with(path, &[]), Exit::Configuration);
        assert_eq!(sign_with(path, "one.key", None).unwrap_err().exit, Exit::Configuration);
    }

    #[test]
    fn nobody_is_asked_without_a_terminal() {
        let directory = place();
        let asking = SignArgs {
            file: directory.path().join("grant"),
            signing_key: KeySpec::Pem(directory.path().join("one.key")),
            out: None,
            yes: false,
        };
        if !std::io::stdin().is_terminal() {
            assert_eq!(sign(&asking).unwrap_err().exit, Exit::Usage);
        }
    }
}
