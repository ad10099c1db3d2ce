//! Clouds as tests play them: authorities, certificates and signed messages by `openssl`, which is
//! not the program under test. Every key is made anew.

use std::{fs, path::PathBuf, process::Command};

use jit_proto::pem;
use tempfile::TempDir;

/// What signs and issues in one test.
pub(super) struct Forge(TempDir);

impl Forge {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The path of a file.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Runs `openssl` with these words, none of which has a blank inside.
    pub(super) fn openssl(&self, words: &str) {
        let mut openssl = Command::new("openssl");
        openssl.args(words.split(' ')).current_dir(self.0.path());
        let done = openssl.output().expect("`openssl` is there (the package `openssl`)");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {words}: {said}");
    }

    /// A certificate of its own issuer, NAME.pem with NAME.key: EC2's regions have such ones, and
    /// authorities. `key`: `rsa:2048`.
    pub(super) fn root(&self, name: &str, key: &str, more: &str) {
        self.openssl(
            format!(
                "req -x509 -newkey {key} -nodes -keyout {name}.key -out {name}.pem \
                 -subj /O=Example/CN={name} -days 30 {more}"
            )
            .trim_end(),
        );
    }

    /// A certificate by an issuer, with these extensions.
    pub(super) fn issued(&self, name: &str, issuer: &str, serial: u32, extensions: &str) {
        fs::write(self.path(&format!("{name}.ext")), extensions).unwrap();
        self.openssl(&format!(
            "req -new -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr \
             -subj /O=Example/CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -set_serial {serial} \
             -days 20 -out {name}.pem -extfile {name}.ext"
        ));
    }

    /// The text of a certificate.
    pub(super) fn pem(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.pem"))).unwrap()
    }

    /// A certificate, DER.
    pub(super) fn der(&self, name: &str) -> Vec<u8> {
        pem::one(&self.pem(name), &["CERTIFICATE"]).unwrap().der.to_vec()
    }

    /// A message that NAME signs, DER unless `more` says `-stream`.
    pub(super) fn signed(&self, name: &str, content: &[u8], more: &str) -> Vec<u8> {
        fs::write(self.path("content"), content).unwrap();
        let hash = if more.contains("-md ") { "" } else { " -md sha256" };
        let more = if more.is_empty() { String::new() } else { format!(" {more}") };
        self.openssl(&format!(
            "cms -sign -binary -nodetach -in content -signer {name}.pem -inkey {name}.key \
             -outform DER -out message{hash}{more}"
        ));
        fs::read(self.path("message")).unwrap()
    }
}
