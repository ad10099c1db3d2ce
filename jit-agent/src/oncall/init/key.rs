//! The host's TLS key and the request for its certificate (PKCS#10, RFC 2986). A key that is there is
//! kept: only the request is written anew.

use std::{fs, io::ErrorKind, net::IpAddr, path::Path};

use jit_proto::pem;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::{
    files::{Places, Readers},
    survey::Survey,
};
use crate::{oncall::failure::Failure, system::sys};

const PRIVATE: &str = "PRIVATE KEY";

/// The names by which controllers connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    names: Vec<SanType>,
}

/// The names of the options, else the host's name and its addresses.
pub(super) fn names(given: &[String], host: &str, survey: &Survey) -> Result<Names, Failure> {
    let ip = |ip: IpAddr| SanType::IpAddress(ip);
    let dns = |name: &str| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || ".-_*".contains(letter);
        let name = Some(name).filter(|name| !name.is_empty() && name.chars().all(plain));
        name.and_then(|name| name.try_into().ok()).map(SanType::DnsName)
    };
    let mut names = Vec::new();
    for name in given {
        let one = name.parse().ok().map(ip).or_else(|| dns(name));
        names.push(one.ok_or_else(|| {
            Failure::Usage(format!("--name {name:?} is neither a DNS name nor an IP address"))
        })?);
    }
    if given.is_empty() {
        // An id such as an ARN is no name.
        let own = survey.name.as_deref().into_iter().chain([host]).find_map(dns);
        names.extend(own);
        names.extend(survey.addresses.iter().copied().map(ip));
    }
    match names.is_empty() {
        true => Err(Failure::Usage(
            "the certificate needs a name by which controllers connect: add --name, or --no-key"
                .into(),
        )),
        false => Ok(Names { names }),
    }
}

/// The host's key, and whether it was made now.
pub(super) fn ensure(places: &Places) -> Result<(KeyPair, bool), Failure> {
    at(places, &places.key())
}

/// The key in a file, and whether it was made now.
pub(in crate::oncall) fn at(places: &Places, path: &Path) -> Result<(KeyPair, bool), Failure> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok((read(path)?, false)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let pair = KeyPair::generate().map_err(|error| cannot("make a key", &error))?;
            let text = pem::encode(PRIVATE, pair.serialized_der());
            places.write(path, text.as_bytes(), Readers::Service)?;
            Ok((pair, true))
        }
        Err(error) => Err(Failure::Refused(format!("cannot look at {}: {error}", path.display()))),
    }
}

fn read(path: &Path) -> Result<KeyPair, Failure> {
    let text = sys::read_secret(path, sys::Readers::Group)?;
    let unusable = |why: String| {
        Failure::Refused(format!(
            "{} cannot be used for the request: {why}; mend it or move it away, or add --no-key",
            path.display()
        ))
    };
    let document = pem::one(&text, &[PRIVATE]).map_err(|error| unusable(error.to_string()))?;
    KeyPair::try_from(document.der.as_slice()).map_err(|error| unusable(error.to_string()))
}

/// The request, PEM.
pub(super) fn request(pair: &KeyPair, host: &str, names: &Names) -> Result<String, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // A common name has room for 64 letters (RFC 5280, ub-common-name).
    let name: String = host.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = names.names.clone();
    let request = params.serialize_request(pair);
    let request = request.map_err(|error| cannot("make the request for a certificate", &error))?;
    Ok(pem::encode("CERTIFICATE REQUEST", request.der()).to_string())
}

fn cannot(what: &str, error: &rcgen::Error) -> Failure {
    Failure::Refused(format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_the_request_has_the_names() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::new(directory.path()).unwrap();
        places.prepare(true, false).unwrap();
        let survey = Survey {
            name: Some("web-1.example.org".into()),
            addresses: vec!["192.0.2.10".parse().unwrap()],
            ..Survey::default()
        };
        let names = names(&[], "arn:aws:ec2:i-0abc", &survey).unwrap();
        let (pair, made) = ensure(&places).unwrap();
        assert!(made);
        assert_eq!(fs::metadata(places.key()).unwrap().mode() & 0o777, 0o640);
        let (again, made) = ensure(&places).unwrap();
        assert!(!made);
        assert_eq!(pair.serialized_der(), again.serialized_der());
        let text = request(&pair, "arn:aws:ec2:i-0abc", &names).unwrap();
        let (_, read) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
        let found = String::from_utf8_lossy(&read.contents).into_owned();
        assert!(found.contains("web-1.example.org"), "{found}");
        assert!(read.contents.windows(4).any(|part| part == [192, 0, 2, 10]));
    }

    #[test]
    fn a_name_that_is_none_and_a_key_that_cannot_be_read_are_refused() {
        for wrong in ["", "a b", "ä"] {
            assert!(names(&[wrong.to_owned()], "h", &Survey::default()).is_err(), "{wrong:?}");
        }
        assert!(names(&[], "arn:aws", &Survey::default()).is_err(), "an id is no name");
        let directory = tempfile::tempdir().unwrap();
        let places = Places::new(directory.path()).unwrap();
        places.prepare(true, false).unwrap();
        places.write(&places.key(), b"no key", Readers::Service).unwrap();
        let error = ensure(&places).unwrap_err().to_string();
        assert!(error.contains("agent.key"), "{error}");
    }
}
