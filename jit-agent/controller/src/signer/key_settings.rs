//! Where a key of the signer is.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::duration_text;

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum KeySettings {
    /// A program that signs, kept running (docs/controller-signers.md).
    Command {
        /// The program, and its arguments.
        command: Vec<String>,
        /// File with the public key that it must have, in PEM; without it the program's word counts.
        #[serde(default)]
        public_key: Option<PathBuf>,
        /// Longest wait for a signature.
        #[serde(default = "default_timeout", with = "duration_text")]
        timeout: Duration,
    },
    /// A PKCS#8 PEM file.
    Pem {
        /// The file.
        file: PathBuf,
    },
    /// A key in a hardware module.
    Pkcs11 {
        /// The module: a shared library.
        module: PathBuf,
        /// Label of the token.
        token: String,
        /// Label of the key pair.
        key: String,
        /// File with the PIN on its first line.
        #[serde(default)]
        pin_file: Option<PathBuf>,
        /// The module speaks with its device over the network, and the signer may make sockets for it.
        #[serde(default)]
        network: bool,
    },
    /// A key that an ssh-agent holds.
    SshAgent {
        /// Its socket; without it the one that `SSH_AUTH_SOCK` names.
        #[serde(default)]
        socket: Option<PathBuf>,
        /// Comment of the key, or its fingerprint: `SHA256:...`.
        key: String,
    },
}

impl KeySettings {
    /// Makes relative paths begin in this directory.
    pub(super) fn resolve(&mut self, directory: &Path) {
        let absolute = |path: &mut PathBuf| *path = directory.join(&*path);
        match self {
            Self::Command { command, public_key, .. } => {
                // A bare name is looked for in PATH.
                if let Some(program) = command.first_mut().filter(|name| name.contains('/')) {
                    *program = directory.join(&*program).to_string_lossy().into_owned();
                }
                public_key.iter_mut().for_each(absolute);
            }
            Self::Pem { file } => absolute(file),
            Self::Pkcs11 { module, pin_file, .. } => {
                absolute(module);
                pin_file.iter_mut().for_each(absolute);
            }
            Self::SshAgent { socket, .. } => socket.iter_mut().for_each(absolute),
        }
    }
}

const fn default_timeout() -> Duration {
    Duration::from_secs(10)
}
