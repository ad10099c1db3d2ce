//! The `[[approver]]` sections of a file, as hosts have them, to check approvals by passkey with.

use std::path::{Path, PathBuf};

use jit_client::{files::read_text, public_key::PublicKey, trusted::Trusted};
use jit_proto::webauthn::RelyingParty;
use serde::Deserialize;

use crate::failure::Failure;

/// What is read of the file; the rest is for the host.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    approver: Vec<Approver>,
}

#[derive(Deserialize)]
struct Approver {
    id: String,
    public_key: PathBuf,
    rp_id: String,
    origins: Vec<String>,
}

/// Reads the approvers of a file, and their keys. A relative path of a key starts at the file.
pub(crate) fn of(path: &Path) -> Result<Vec<Trusted>, Failure> {
    let failed = |why: String| Failure::files(format!("{}: {why}", path.display()));
    let text = read_text(path, "the approvers")?;
    let File { approver } = toml::from_str(&text).map_err(|error| failed(error.to_string()))?;
    if approver.is_empty() {
        return Err(failed("it has no [[approver]] section".to_owned()));
    }
    let trusted = |Approver { id, public_key, rp_id, origins }: Approver| {
        let party = RelyingParty::new(&rp_id, origins)
            .map_err(|error| failed(format!("[[approver]] {id:?}: {error}")))?;
        let file = path.parent().unwrap_or(Path::new(".")).join(public_key);
        let pem = read_text(&file, "the public key")?;
        let key = PublicKey::from_pem(&pem)
            .map_err(|why| failed(format!("[[approver]] {id:?}: public_key: {why}")))?;
        Ok(Trusted { name: id, key, approver: Some(party) })
    };
    approver.into_iter().map(trusted).collect()
}

/// For whom a passkey is, by the one section of this text.
///
/// # Errors
/// It is none, in words.
pub(crate) fn party(section: &str) -> Result<RelyingParty, String> {
    let File { approver } = toml::from_str(section).map_err(|error| error.message().to_owned())?;
    let Ok([one]) = <[Approver; 1]>::try_from(approver) else {
        return Err("it is not one [[approver]] section".to_owned());
    };
    RelyingParty::new(&one.rp_id, one.origins).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use jit_client::signing::{Algorithm, SigningKey};

    use super::*;

    #[test]
    fn the_approvers_are_read_from_a_hosts_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let key = SigningKey::generate(Algorithm::P256, provider.secure_random).unwrap();
        std::fs::write(directory.path().join("ana.pem"), key.public_pem()).unwrap();
        let file = directory.path().join("config.toml");
        let good = "[host]\nid = \"web-1\"\n[[approver]]\nid = \"ana\"\npublic_key = \"ana.pem\"\n\
                    rp_id = \"example.org\"\norigins = [\"https://jit.example.org\"]\n\
                    max_duration = \"1h\"\n";
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            of(&file)
        };
        let [ana] = &read(good).unwrap()[..] else { panic!("not one") };
        assert_eq!((ana.name.as_str(), &ana.key), ("ana", &key.public()));
        assert_eq!(ana.approver.as_ref().map(RelyingParty::id), Some("example.org"));
        for (text, expected) in [
            ("[host]\nid = \"web-1\"\n".to_owned(), "no [[approver]]"),
            (good.replace("https://", "http://"), "[[approver]] \"ana\": \"http://"),
            (good.replace("ana.pem", "missing.pem"), "missing.pem"),
            (good.replace("rp_id", "rpid"), "rp_id"),
            ("[[approver".to_owned(), "config.toml"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
