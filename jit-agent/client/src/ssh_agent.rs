//! Signing with a key that ssh-agent holds (draft-ietf-sshm-ssh-agent): the private key never comes here.
//!
//! An Ed25519 key signs the message itself, not SSHSIG's wrapping; ECDSA P-256 hashes it with SHA-256.
//! Both are what an envelope needs. RSA, DSA, other curves, certificates, and FIDO keys (`sk-...`, which
//! sign more than the message) do not fit.

use std::{
    env,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::public_key::PublicKey;

/// Largest message that OpenSSH's agent takes, bytes (`AGENT_MAX_LEN`).
const MAX_MESSAGE: usize = 256 * 1024;
/// Longest wait for an answer: a person may have to confirm (`ssh-add -c`).
const PATIENCE: Duration = Duration::from_secs(60);

/// `SSH_AGENT_FAILURE`, `SSH_AGENTC_REQUEST_IDENTITIES` and its answer, `SSH_AGENTC_SIGN_REQUEST` and
/// its answer.
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES: u8 = 12;
const REQUEST_SIGNATURE: u8 = 13;
const SIGNATURE: u8 = 14;

/// A connection to an agent.
#[derive(Debug)]
pub struct SshAgent {
    socket: UnixStream,
}

/// A key that the agent holds.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The key as SSH encodes it (RFC 4253 section 6.6).
    blob: Vec<u8>,
    /// The comment: mostly `user@host` or a file.
    pub comment: String,
    /// The key, if its signatures fit.
    pub public: Option<PublicKey>,
}

/// One key of an agent.
#[derive(Debug)]
pub struct SshAgentKey {
    agent: SshAgent,
    blob: Vec<u8>,
    public: PublicKey,
}

impl Identity {
    /// `SHA256:...`, as `ssh-add -l` prints it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }
}

impl SshAgent {
    /// Connects to the agent with this socket, or to the one that `SSH_AUTH_SOCK` names.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub fn connect(socket: Option<&Path>) -> Result<Self, String> {
        let named = || env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
        let path = match socket {
            Some(path) => path.to_owned(),
            None => named().map(PathBuf::from).ok_or(
                "SSH_AUTH_SOCK is not set: no ssh-agent here (start one, and `ssh-add` the key)",
            )?,
        };
        let failed = |error: io::Error| {
            format!("cannot connect to the ssh-agent at {}: {error}", path.display())
        };
        let socket = UnixStream::connect(&path).map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { socket })
    }

    /// The keys that it holds.
    ///
    /// # Errors
    /// It does not answer, or not as an agent does.
    pub fn identities(&self) -> Result<Vec<Identity>, String> {
        let answer = self.call(&[REQUEST_IDENTITIES])?;
        let mut answer = Fields(&answer);
        let malformed = || "the ssh-agent's list of keys is malformed".to_owned();
        if answer.byte() != Some(IDENTITIES) {
            return Err(malformed());
        }
        let count = answer.number().ok_or_else(malformed)?;
        let mut found = Vec::new();
        for _ in 0..count {
            let blob = answer.string().ok_or_else(malformed)?.to_vec();
            let comment = answer.string().ok_or_else(malformed)?;
            let comment = String::from_utf8_lossy(comment).into_owned();
            found.push(Identity { public: public_key(&blob), blob, comment });
        }
        Ok(found)
    }

    /// The key with this comment or fingerprint.
    ///
    /// # Errors
    /// There is none, several have the comment, or its signatures do not fit.
    pub fn key(self, which: &str) -> Result<SshAgentKey, String> {
        let all = self.identities()?;
        let is_named = |one: &&Identity| one.comment == which || one.fingerprint() == which;
        let mut named = all.iter().filter(is_named);
        let Some(found) = named.next() else {
            let each: Vec<_> = all
                .iter()
                .map(|one| format!("{:?} ({})", one.comment, one.fingerprint()))
                .collect();
            let held = if each.is_empty() { "no key".to_owned() } else { each.join(", ") };
            return Err(format!("the ssh-agent has no key {which:?}; it holds {held}"));
        };
        if let Some(second) = named.next() {
            return Err(format!(
                "the ssh-agent has several keys {which:?}; name one by its fingerprint: {} or {}",
                found.fingerprint(),
                second.fingerprint()
            ));
        }
        let Some(public) = found.public.clone() else {
            return Err(format!(
                "the key {which:?} of the ssh-agent is neither Ed25519 nor ECDSA P-256, or it is one \
                 of a FIDO device: `ssh-keygen -t ed25519` makes one that fits"
            ));
        };
        Ok(SshAgentKey { agent: self, blob: found.blob.clone(), public })
    }

    fn call(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        if body.len() > MAX_MESSAGE {
            return Err(format!(
                "{} bytes are too many for an ssh-agent, which takes {MAX_MESSAGE}",
                body.len()
            ));
        }
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                format!("the ssh-agent did not answer within {} s", PATIENCE.as_secs())
            }
            io::ErrorKind::UnexpectedEof => "the ssh-agent has closed the connection".to_owned(),
            _ => format!("cannot speak with the ssh-agent: {error}"),
        };
        let mut socket = &self.socket;
        socket.write_all(&string(body)).map_err(failed)?;
        let mut length = [0; 4];
        socket.read_exact(&mut length).map_err(failed)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length == 0 || length > MAX_MESSAGE {
            return Err(format!("an answer of {length} bytes is not one of an ssh-agent"));
        }
        let mut answer = vec![0; length];
        socket.read_exact(&mut answer).map_err(failed)?;
        Ok(answer)
    }
}

impl SshAgentKey {
    /// The public key.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message: 64 bytes for Ed25519, r and s with 32 bytes each for P-256.
    ///
    /// # Errors
    /// The agent refuses, or does not answer.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let mut body = vec![REQUEST_SIGNATURE];
        body.extend(string(&self.blob));
        body.extend(string(message));
        body.extend(0_u32.to_be_bytes());
        let answer = self.agent.call(&body)?;
        let mut answer = Fields(&answer);
        match answer.byte() {
            Some(SIGNATURE) => {}
            Some(FAILURE) => {
                return Err(
                    "the ssh-agent refused to sign: the key was removed, or the signature \
                            was not confirmed"
                        .to_owned(),
                );
            }
            _ => return Err("the ssh-agent's answer is no signature".to_owned()),
        }
        let signature = answer.string().and_then(|blob| self.signature(blob));
        signature.ok_or_else(|| "the ssh-agent's signature is malformed".to_owned())
    }

    /// From SSH's form: its name, then the signature (RFC 8709 section 6, RFC 5656 section 3.1.2).
    fn signature(&self, blob: &[u8]) -> Option<Vec<u8>> {
        let mut blob = Fields(blob);
        let name = blob.string()?;
        let signature = blob.string()?;
        match self.public {
            PublicKey::Ed25519(_) => (name == b"ssh-ed25519").then(|| signature.to_vec()),
            PublicKey::P256(_) => {
                let mut numbers = Fields(signature);
                let (r, s) = (number_of_32(numbers.string()?)?, number_of_32(numbers.string()?)?);
                (name == b"ecdsa-sha2-nistp256").then(|| [r, s].concat())
            }
        }
    }
}

/// The key of an SSH blob, if its signatures fit.
fn public_key(blob: &[u8]) -> Option<PublicKey> {
    let mut blob = Fields(blob);
    match blob.string()? {
        b"ssh-ed25519" => PublicKey::from_ed25519(blob.string()?).ok(),
        b"ecdsa-sha2-nistp256" => {
            let curve = blob.string()?;
            let point = blob.string()?;
            (curve == b"nistp256").then(|| PublicKey::from_p256_point(point).ok())?
        }
        _ => None,
    }
}

/// SSH's `mpint` (RFC 4251 section 5) as 32 bytes.
fn number_of_32(mpint: &[u8]) -> Option<[u8; 32]> {
    let start = mpint.iter().position(|byte| *byte != 0).unwrap_or(mpint.len());
    let digits = mpint.get(start..)?;
    let mut number = [0; 32];
    number.get_mut(32_usize.checked_sub(digits.len())?..)?.copy_from_slice(digits);
    Some(number)
}

/// A text or bytes with their length before them.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// Reads the fields of a message from its beginning.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_ssh_have_32_bytes_afterwards() {
        assert_eq!(number_of_32(&[0, 0x80]).unwrap()[31], 0x80);
        assert_eq!(number_of_32(&[]), Some([0; 32]));
        assert_eq!(number_of_32(&[1; 33]), None);
        let mut padded = vec![0];
        padded.extend([0xff; 32]);
        assert_eq!(number_of_32(&padded), Some([0xff; 32]));
    }

    #[test]
    fn a_message_that_is_cut_has_no_field() {
        let mut fields = Fields(&[0, 0, 0, 2, 1]);
        assert_eq!(fields.string(), None);
        assert_eq!(Fields(&[0, 0]).number(), None);
        assert_eq!(public_key(&string(b"ssh-rsa")), None);
        assert_eq!(public_key(&string(b"ssh-ed25519")), None);
    }

    #[test]
    fn an_agent_that_answers_nonsense_is_named() {
        for (answer, says) in [
            (&[0, 0, 0, 1, FAILURE][..], "malformed"),
            (&[0, 0, 0, 5, IDENTITIES, 0, 0, 0, 9], "malformed"),
            (&[0xff; 4], "not one of an ssh-agent"),
            (&[0, 0, 0, 9, IDENTITIES], "closed the connection"),
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let error = SshAgent { socket: ours }.identities().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
