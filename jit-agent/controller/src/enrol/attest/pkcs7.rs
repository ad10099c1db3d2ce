//! What a cloud has signed, as CMS SignedData (RFC 5652, PKCS#7 before it): the shape, and who
//! *really* signed it. It trusts nobody: the caller says whose certificates count.
//!
//! One signer, RSA of 2048 bits or more with PKCS#1 v1.5, SHA-256: what EC2 (`rsa2048`) and Azure
//! write. The certificate is the one whose issuer and serial number the signer names *and* whose
//! key made the signature, wherever it stands among others (SPIRE took the first one, spire#6998).
//!
//! No crate: `cms` has no release, and what is left for one to do are the 150 lines of `read`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    digest::{SHA256, digest},
    signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ber::{self, Malformed, Reader, Value};

/// Largest message, bytes: EC2's have 2,000, Azure's 6,000.
pub const MAX_BYTES: usize = 64 * 1024;
/// The most certificates of a message.
const MAX_CERTIFICATES: usize = 16;
/// The most attributes of a signer.
const MAX_ATTRIBUTES: usize = 16;

/// id-data, 1.2.840.113549.1.7.1
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// id-signedData, 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// id-contentType, 1.2.840.113549.1.9.3
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
/// id-messageDigest, 1.2.840.113549.1.9.4
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
/// rsaEncryption, 1.2.840.113549.1.1.1
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// sha256WithRSAEncryption, 1.2.840.113549.1.1.11
const RSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
/// id-sha256, 2.16.840.1.101.3.4.2.1
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// Why a message does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Its digest or signature is of another kind.
    #[error("it is not signed with RSA and SHA-256 (of EC2 that is `rsa2048`, not `pkcs7`)")]
    Algorithm,
    /// No base64.
    #[error("it is no base64")]
    Base64,
    /// No certificate is the one that the signer names.
    #[error("no certificate that counts is the one that its signer names")]
    Certificate,
    /// The digest that was signed is of something else.
    #[error("what is signed is another text than the one that it holds")]
    Digest,
    /// No such structure.
    #[error("it is no signed message (CMS SignedData of RFC 5652 with its content in it)")]
    Malformed,
    /// The certificate that the signer names has not signed it.
    #[error("its signature is wrong")]
    Signature,
    /// None or several signers.
    #[error("it has {0} signers, and not one")]
    Signers(usize),
    /// Too large.
    #[error("it has over {MAX_BYTES} bytes")]
    TooLarge,
}

impl From<Malformed> for SignedError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// A message whose shape is good. What it holds is only out of [`Message::signed`].
#[derive(Debug)]
pub struct Message<'b> {
    content: Vec<u8>,
    certificates: Vec<&'b [u8]>,
    /// The issuer's name, DER.
    issuer: &'b [u8],
    /// The content of the serial number.
    serial: &'b [u8],
    /// The attributes as they are signed; `None`: the content itself is.
    attributes: Option<Vec<u8>>,
    signature: &'b [u8],
}

/// What was signed, and with whose key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<'c> {
    /// The content.
    pub content: Vec<u8>,
    /// The certificate, DER.
    pub certificate: &'c [u8],
}

/// The bytes of a message in base64, with or without line breaks, as metadata services give it.
///
/// # Errors
/// [`SignedError::Base64`], [`SignedError::TooLarge`].
pub fn bytes(text: &str) -> Result<Vec<u8>, SignedError> {
    if text.len() > MAX_BYTES * 3 / 2 {
        return Err(SignedError::TooLarge);
    }
    let mut letters = text.as_bytes().to_vec();
    letters.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    STANDARD.decode(letters).map_err(|_| SignedError::Base64)
}

impl<'b> Message<'b> {
    /// Reads a message.
    ///
    /// # Errors
    /// All but [`SignedError::Certificate`] and [`SignedError::Signature`].
    pub fn read(bytes: &'b [u8]) -> Result<Self, SignedError> {
        if bytes.len() > MAX_BYTES {
            return Err(SignedError::TooLarge);
        }
        let mut all = Reader::new(bytes);
        let mut info = all.take(ber::SEQUENCE)?.parts();
        all.end()?;
        is(info.take(ber::OID)?, SIGNED_DATA)?;
        let mut wrapped = info.take(ber::FIRST)?.parts();
        info.end()?;
        let mut data = wrapped.take(ber::SEQUENCE)?.parts();
        wrapped.end()?;
        let _version = data.take(ber::INTEGER)?;
        // Not signed, and said again by the signer.
        let _digests = data.take(ber::SET)?;
        let content = content(data.take(ber::SEQUENCE)?)?;
        let certificates = match data.optional(ber::FIRST)? {
            Some(bag) => certificates(bag)?,
            None => Vec::new(),
        };
        let _revoked = data.optional(ber::SECOND)?;
        let signers = list(data.take(ber::SET)?)?;
        data.end()?;
        let [signer] = signers.as_slice() else {
            return Err(SignedError::Signers(signers.len()));
        };
        Self::of_signer(*signer, content, certificates)
    }

    fn of_signer(
        signer: Value<'b>,
        content: Vec<u8>,
        certificates: Vec<&'b [u8]>,
    ) -> Result<Self, SignedError> {
        if signer.tag != ber::SEQUENCE {
            return Err(SignedError::Malformed);
        }
        let mut fields = signer.parts();
        let _version = fields.take(ber::INTEGER)?;
        // A signer that is named by the id of its key has another tag here.
        let mut name = fields.take(ber::SEQUENCE)?.parts();
        let issuer = name.take(ber::SEQUENCE)?.whole;
        let serial = name.take(ber::INTEGER)?.content;
        name.end()?;
        if algorithm(fields.take(ber::SEQUENCE)?)? != SHA256_OID {
            return Err(SignedError::Algorithm);
        }
        let attributes = fields.optional(ber::FIRST)?;
        if ![RSA, RSA_WITH_SHA256].contains(&algorithm(fields.take(ber::SEQUENCE)?)?) {
            return Err(SignedError::Algorithm);
        }
        let signature = fields.take(ber::OCTETS)?.content;
        let _unsigned = fields.optional(ber::SECOND)?;
        fields.end()?;
        let attributes = attributes.map(|set| checked(set, &content)).transpose()?;
        Ok(Self { content, certificates, issuer, serial, attributes, signature })
    }

    /// The certificates that came with it, DER. They may be anything.
    pub fn certificates(&self) -> &[&'b [u8]] {
        &self.certificates
    }

    /// The content, if one of these certificates has signed it; which one.
    ///
    /// # Errors
    /// [`SignedError::Certificate`], [`SignedError::Signature`].
    pub fn signed<'c>(
        &self,
        certificates: impl IntoIterator<Item = &'c [u8]>,
    ) -> Result<Signed<'c>, SignedError> {
        let message = self.attributes.as_deref().unwrap_or(&self.content);
        let mut error = SignedError::Certificate;
        for der in certificates {
            let Ok(([], certificate)) = X509Certificate::from_der(der) else { continue };
            if certificate.issuer().as_raw() != self.issuer
                || certificate.raw_serial() != self.serial
            {
                continue;
            }
            let key = certificate.public_key();
            if key.algorithm.algorithm.as_bytes() != RSA {
                error = SignedError::Algorithm;
                continue;
            }
            let key =
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.subject_public_key.data);
            if key.verify(message, self.signature).is_ok() {
                return Ok(Signed { content: self.content.clone(), certificate: der });
            }
            error = SignedError::Signature;
        }
        Err(error)
    }
}

fn is(value: Value<'_>, oid: &[u8]) -> Result<(), SignedError> {
    if value.content == oid { Ok(()) } else { Err(SignedError::Malformed) }
}

/// The parts of a value; there are few of them.
fn list(value: Value<'_>) -> Result<Vec<Value<'_>>, SignedError> {
    let mut parts = value.parts();
    let mut all = Vec::new();
    while !parts.is_empty() {
        if all.len() == MAX_ATTRIBUTES.max(MAX_CERTIFICATES) {
            return Err(SignedError::Malformed);
        }
        all.push(parts.next()?);
    }
    Ok(all)
}

/// EncapsulatedContentInfo (RFC 5652 section 5.2), of plain data.
fn content(value: Value<'_>) -> Result<Vec<u8>, SignedError> {
    let mut info = value.parts();
    is(info.take(ber::OID)?, DATA)?;
    let mut wrapped = info.take(ber::FIRST)?.parts();
    info.end()?;
    let content = ber::octets(wrapped.next()?)?;
    wrapped.end()?;
    Ok(content)
}

/// The certificates of X.509 in a bag; there is nothing else in it.
fn certificates(bag: Value<'_>) -> Result<Vec<&[u8]>, SignedError> {
    let of_one = |one: Value<'_>| one.tag == ber::SEQUENCE;
    let all = list(bag)?;
    if !all.iter().copied().all(of_one) {
        return Err(SignedError::Malformed);
    }
    Ok(all.into_iter().map(|one| one.whole).collect())
}

/// The algorithm of an AlgorithmIdentifier without parameters.
fn algorithm(value: Value<'_>) -> Result<&[u8], SignedError> {
    let mut parts = value.parts();
    let oid = parts.take(ber::OID)?.content;
    // RSASSA-PSS has parameters, and DSA: they are refused as what they are.
    if !parts.is_empty() && parts.next()?.whole != [ber::NULL, 0] {
        return Err(SignedError::Algorithm);
    }
    parts.end()?;
    Ok(oid)
}

/// The attributes as they are signed (RFC 5652 section 5.4), if they are of this content.
fn checked(set: Value<'_>, content: &[u8]) -> Result<Vec<u8>, SignedError> {
    let mut of_type = None;
    let mut of_digest = None;
    for attribute in list(set)? {
        if attribute.tag != ber::SEQUENCE {
            return Err(SignedError::Malformed);
        }
        let mut parts = attribute.parts();
        let name = parts.take(ber::OID)?.content;
        let values = list(parts.take(ber::SET)?)?;
        parts.end()?;
        let place = match name {
            CONTENT_TYPE => &mut of_type,
            MESSAGE_DIGEST => &mut of_digest,
            _ => continue,
        };
        // Each once, with one value (RFC 5652 sections 11.1 and 11.2).
        let [value] = values.as_slice() else { return Err(SignedError::Malformed) };
        if place.replace(*value).is_some() {
            return Err(SignedError::Malformed);
        }
    }
    let (Some(of_type), Some(of_digest)) = (of_type, of_digest) else {
        return Err(SignedError::Malformed);
    };
    if of_type.tag != ber::OID || of_digest.tag != ber::OCTETS {
        return Err(SignedError::Malformed);
    }
    is(of_type, DATA)?;
    if of_digest.content != digest(&SHA256, content).as_ref() {
        return Err(SignedError::Digest);
    }
    Ok(ber::der_set(set.content))
}

#[cfg(test)]
mod tests;
