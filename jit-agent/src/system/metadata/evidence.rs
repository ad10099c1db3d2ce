//! What a cloud signs for a machine, fetched for an enrolment: this side only fetches it, within the
//! bounds of every request here; whoever enrols the host verifies it (docs/identity.md, section
//! "Evidence").
//!
//! Nothing here is a secret of the host but the tokens, and these are for one audience: never for a
//! service of the cloud itself, or whoever gets the token could act there as this machine.

use std::{fs, io::Read as _, net::SocketAddr, os::unix::fs::OpenOptionsExt as _, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::{Method, StatusCode, header::WWW_AUTHENTICATE};
use rustix::fs::OFlags;
use serde::Deserialize;

use super::{
    fault::Fault,
    http::{Answer, Asked, ask},
    sources::{
        ARC, ARC_HOST, GOOGLE, LINK_LOCAL, LINK_LOCAL_HOST, METADATA, get, token, trusted_owner,
    },
};

/// Where Azure Arc puts the files that show that their reader may have a token.
const KEYS: &str = "/var/opt/azcmagent/tokens";
/// The largest of these files, bytes.
const KEY: u64 = 4_096;
/// How often Azure is asked for a document with a nonce: it may answer with an older one.
const NONCES: usize = 3;
/// The longest nonce that Azure takes, and the longest audience, characters.
const NONCE: usize = 32;
const AUDIENCE: usize = 255;
/// Audiences whose tokens open the customer's cloud.
const CLOUDS: [&str; 9] = [
    "management.azure.com",
    "management.core.windows.net",
    "management.usgovcloudapi.net",
    "management.core.usgovcloudapi.net",
    "management.chinacloudapi.cn",
    "graph.microsoft.com",
    "graph.windows.net",
    "vault.azure.net",
    "storage.azure.com",
];

/// EC2's identity document and its signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ec2Evidence {
    /// The document, byte for byte as it is signed.
    pub document: Vec<u8>,
    /// PKCS#7, base64: SHA-256 with RSA-2048, by the certificate of the region.
    pub rsa2048: String,
}

/// Azure's attested document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AzureEvidence {
    /// The nonce that is in it.
    pub nonce: String,
    /// PKCS#7, base64.
    pub signature: String,
}

/// The identity document of this EC2 instance with its signature.
pub async fn ec2() -> Result<Ec2Evidence, Fault> {
    ec2_at(LINK_LOCAL).await
}

/// Azure's document about this VM. `nonce` makes a new one for each try: at most 32 letters and digits.
pub async fn azure(nonce: impl FnMut() -> String) -> Result<AzureEvidence, Fault> {
    azure_at(LINK_LOCAL, nonce).await
}

/// A token of Entra ID for this Azure Arc machine, for an application of ours.
pub async fn arc(audience: &str) -> Result<String, Fault> {
    check_audience(audience)?;
    trusted_owner(None)?;
    arc_at(ARC, Path::new(KEYS), audience).await
}

/// Google's token for this GCP VM, for this audience.
pub async fn gcp(audience: &str) -> Result<String, Fault> {
    check_audience(audience)?;
    gcp_at(LINK_LOCAL, audience).await
}

async fn ec2_at(to: SocketAddr) -> Result<Ec2Evidence, Fault> {
    let token = token(to, LINK_LOCAL_HOST).await?;
    let headers = [("X-aws-ec2-metadata-token", token.as_str())];
    let value = async |path| ask(to, &get(LINK_LOCAL_HOST, path, &headers)).await?.good();
    let (document, rsa2048) = tokio::try_join!(
        value("/latest/dynamic/instance-identity/document"),
        value("/latest/dynamic/instance-identity/rsa2048"),
    )?;
    let rsa2048 = String::from_utf8(rsa2048).unwrap_or_default();
    let rsa2048: String = rsa2048.split_ascii_whitespace().collect();
    match BASE64_STANDARD.decode(&rsa2048) {
        Ok(bytes) if !bytes.is_empty() => Ok(Ec2Evidence { document, rsa2048 }),
        _ => Err(Fault::Malformed("rsa2048 is not base64".into())),
    }
}

async fn azure_at(
    to: SocketAddr,
    mut nonce: impl FnMut() -> String,
) -> Result<AzureEvidence, Fault> {
    #[derive(Deserialize)]
    struct Document {
        encoding: String,
        signature: String,
    }
    for _ in 0..NONCES {
        let nonce = nonce();
        let is_good = nonce.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_good || !matches!(nonce.len(), 1..=NONCE) {
            return Err(Fault::Malformed(format!("a nonce that Azure does not take: {nonce:?}")));
        }
        let path = format!("/metadata/attested/document?api-version=2020-09-01&nonce={nonce}");
        let body = ask(to, &get(LINK_LOCAL_HOST, &path, &[METADATA])).await?.good()?;
        let Document { encoding, signature } = serde_json::from_slice(&body)
            .map_err(|error| Fault::Malformed(format!("its JSON: {error}")))?;
        let signed = BASE64_STANDARD.decode(&signature);
        let (Ok(signed), "pkcs7") = (signed, encoding.as_str()) else {
            return Err(Fault::Malformed("the attested document is no PKCS#7 in base64".into()));
        };
        // The signed JSON stands in it as it is. An older document may be in the service's cache.
        let ours = format!("\"nonce\":\"{nonce}\"");
        let text: Vec<u8> = signed.into_iter().filter(|byte| *byte != b' ').collect();
        if text.windows(ours.len()).any(|part| part == ours.as_bytes()) {
            return Ok(AzureEvidence { nonce, signature });
        }
    }
    Err(Fault::Malformed(format!("the attested document has another nonce, {NONCES} times")))
}

async fn arc_at(to: SocketAddr, keys: &Path, audience: &str) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Token {
        access_token: String,
    }
    let path = format!(
        "/metadata/identity/oauth2/token?api-version=2019-11-01&resource={}",
        encoded(audience)
    );
    let challenge = ask(to, &get(ARC_HOST, &path, &[METADATA])).await?;
    if challenge.status != StatusCode::UNAUTHORIZED {
        return Err(Fault::Refused(challenge.status.as_u16()));
    }
    let key = key(keys, realm(&challenge)?)?;
    let authorization = format!("Basic {key}");
    let headers = [METADATA, ("Authorization", authorization.as_str())];
    let body = ask(to, &get(ARC_HOST, &path, &headers)).await?.good()?;
    let Token { access_token } = serde_json::from_slice(&body)
        .map_err(|_| Fault::Malformed("its JSON with the token".into()))?;
    jwt(access_token)
}

/// The path that a challenge names.
fn realm(challenge: &Answer) -> Result<&str, Fault> {
    let header = challenge.headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
    let realm = header.and_then(|value| value.strip_prefix("Basic realm="));
    realm.ok_or_else(|| Fault::Malformed("the challenge names no file".into()))
}

/// The content of a key file. The service names it, and a hostile one must not make this process read
/// anything else: it is a file of this directory itself, with a plain name, and no link leads to it.
fn key(keys: &Path, realm: &str) -> Result<String, Fault> {
    let refused = |why: String| Fault::Untrusted(format!("the key file {realm:?}: {why}"));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let stem = realm.strip_prefix(&format!("{}/", keys.display()));
    let stem = stem.and_then(|name| name.strip_suffix(".key"));
    if !stem.is_some_and(|stem| !stem.is_empty() && stem.bytes().all(plain)) {
        return Err(refused(format!("it is not one of {}/*.key", keys.display())));
    }
    if fs::canonicalize(keys).is_ok_and(|real| real != keys) {
        return Err(refused(format!("a link leads to {}", keys.display())));
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(realm);
    let file = file.map_err(|error| refused(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| refused(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > KEY {
        return Err(refused(format!("it is no file of at most {KEY} bytes")));
    }
    let mut text = String::new();
    file.take(KEY).read_to_string(&mut text).map_err(|error| refused(error.to_string()))?;
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused("its content is no key".into()));
    }
    Ok(text.to_owned())
}

async fn gcp_at(to: SocketAddr, audience: &str) -> Result<String, Fault> {
    let path = format!(
        "/computeMetadata/v1/instance/service-accounts/default/identity?audience={}&format=full",
        encoded(audience)
    );
    let asked = Asked {
        method: Method::GET,
        host: "metadata.google.internal",
        path: &path,
        headers: &[GOOGLE],
    };
    let body = ask(to, &asked).await?.good()?;
    jwt(String::from_utf8(body).unwrap_or_default())
}

/// Refuses an audience whose token would open the customer's cloud.
fn check_audience(audience: &str) -> Result<(), Fault> {
    let lower = audience.to_ascii_lowercase();
    let host = lower.split_once("://").map_or(lower.as_str(), |(_, rest)| rest);
    let host = host.split(['/', ':', '?', '#']).next().unwrap_or_default();
    let is_of = |cloud: &str| {
        host == cloud || host.strip_suffix(cloud).is_some_and(|rest| rest.ends_with('.'))
    };
    if let Some(cloud) = CLOUDS.into_iter().find(|cloud| is_of(cloud)) {
        return Err(Fault::Untrusted(format!(
            "a token for {cloud} would open the cloud to whoever gets it: name an application of your \
             own as the audience"
        )));
    }
    let printable = audience.bytes().all(|byte| byte.is_ascii_graphic());
    if matches!(audience.len(), 1..=AUDIENCE) && printable && !host.contains('@') {
        return Ok(());
    }
    Err(Fault::Malformed(format!("an audience has 1 to {AUDIENCE} printable characters")))
}

/// For a query (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Three parts in base64url. Its signature is not looked at here.
fn jwt(token: String) -> Result<String, Fault> {
    let part = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !part.is_empty() && part.bytes().all(allowed)
    };
    if token.split('.').count() == 3 && token.split('.').all(part) {
        return Ok(token);
    }
    Err(Fault::Malformed("its token is no JWT".into()))
}

#[cfg(test)]
mod tests;
