//! PEM without surprises (RFC 7468): everything in a file that looks like PEM is returned or
//! refused, so that no key and no certificate vanishes in silence.
//!
//! Text outside of the documents is allowed, as in RFC 7468 section 2: tools write subjects there.
//! The crate `pem` would skip what it does not understand, and leave copies of a private key in freed
//! memory. So the boundaries are found here, and what was read is overwritten.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Five dashes begin and end each boundary.
const DASHES: &str = "-----";
/// Letters of a line (RFC 7468 section 2).
const LINE: usize = 64;
/// UTF-8's byte-order mark. Editors put it at the beginning of a file; files that are joined have it
/// in the middle.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// One document of a PEM file.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    /// Its label: `CERTIFICATE`, `PUBLIC KEY`.
    pub label: String,
    /// Its content, DER. It is overwritten when it is dropped.
    pub der: Zeroizing<Vec<u8>>,
    /// The line of its beginning, from 1.
    pub line: usize,
}

/// Why a text is refused. The line counts from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No document at all.
    #[error(
        "no PEM in it (-----BEGIN ...-----); convert DER with `openssl x509 -inform DER` or `openssl pkey -inform DER`"
    )]
    Empty,
    /// A line that is almost a boundary.
    #[error(
        "line {line}: {text:?} is not one whole boundary; write each -----BEGIN ...----- and \
         -----END ...----- on a line of its own"
    )]
    Boundary {
        /// The line.
        line: usize,
        /// Its text.
        text: String,
    },
    /// A document without an end, or an end without a beginning.
    #[error("line {line}: {label} has no matching {missing} line")]
    Unmatched {
        /// The line of the boundary that is there.
        line: usize,
        /// Its label.
        label: String,
        /// `-----BEGIN` or `-----END`.
        missing: &'static str,
    },
    /// The content is not base64, or it is encrypted.
    #[error("line {line}: {label}: {why}")]
    Content {
        /// The line of the document's beginning.
        line: usize,
        /// Its label.
        label: String,
        /// Why.
        why: String,
    },
    /// A document that this file must not have.
    #[error("line {line}: a {label}, but only {wanted} belongs here{cure}")]
    Label {
        /// The line of the document's beginning.
        line: usize,
        /// Its label.
        label: String,
        /// The labels that may stand here.
        wanted: String,
        /// What to do, after a semicolon; empty when nothing is known.
        cure: &'static str,
    },
    /// More than one document where one is wanted.
    #[error("line {line}: a second {label}; this file must have exactly one")]
    Second {
        /// The line of the second document.
        line: usize,
        /// Its label.
        label: String,
    },
}

impl fmt::Debug for Document {
    /// Without the content: it may be a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("label", &self.label)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// All documents of a text whose labels are among `wanted`, in their order; at least one.
///
/// # Errors
/// Something that looks like PEM is not understood, or has another label.
pub fn documents(text: &str, wanted: &[&str]) -> Result<Vec<Document>, PemError> {
    let documents = parse(text)?;
    if documents.is_empty() {
        return Err(PemError::Empty);
    }
    match documents.iter().find(|document| !wanted.contains(&document.label.as_str())) {
        Some(other) => Err(PemError::Label {
            line: other.line,
            label: other.label.clone(),
            wanted: wanted.join(" or "),
            cure: cure(&other.label),
        }),
        None => Ok(documents),
    }
}

/// The only document of a text, with one of these labels.
///
/// # Errors
/// As [`documents`], and when there is a second one.
pub fn one(text: &str, wanted: &[&str]) -> Result<Document, PemError> {
    let mut documents = documents(text, wanted)?.into_iter();
    match (documents.next(), documents.next()) {
        (Some(only), None) => Ok(only),
        (_, Some(second)) => Err(PemError::Second { line: second.line, label: second.label }),
        (None, None) => Err(PemError::Empty),
    }
}

/// A document as text: lines of 64 letters, as `openssl` writes them.
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let content = Zeroizing::new(STANDARD.encode(der));
    let lines = content.len().div_ceil(LINE);
    // It never grows: the place that it would leave is not overwritten.
    let room = content.len() + lines + 2 * (label.len() + "-----BEGIN -----\n".len());
    let mut text = Zeroizing::new(String::with_capacity(room));
    let mut rest = content.as_str();
    text.extend(["-----BEGIN ", label, "-----\n"]);
    while let Some((line, after)) = rest.split_at_checked(LINE.min(rest.len())) {
        if line.is_empty() {
            break;
        }
        text.extend([line, "\n"]);
        rest = after;
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

/// What to do about a document that is in the wrong file or of a foreign kind.
fn cure(label: &str) -> &'static str {
    match label {
        "TRUSTED CERTIFICATE" => "; convert it: `openssl x509 -in FILE -out NEW`",
        "X509 CERTIFICATE" => "; write CERTIFICATE in both boundary lines",
        "ENCRYPTED PRIVATE KEY" => "; remove its passphrase: `openssl pkey -in FILE -out NEW`",
        "RSA PUBLIC KEY" => {
            "; convert it: `openssl rsa -RSAPublicKey_in -in FILE -pubout -out NEW`"
        }
        label if label.ends_with("PRIVATE KEY") => "; a private key belongs into a file of its own",
        _ => "",
    }
}

/// Every document of a text.
fn parse(text: &str) -> Result<Vec<Document>, PemError> {
    let mut documents = Vec::new();
    let mut open: Option<(usize, &str, Zeroizing<String>)> = None;
    let whole = text.len();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim_start_matches(BYTE_ORDER_MARK).trim();
        match (boundary(text, line)?, open.as_mut()) {
            (None, None) => {}
            // An empty line would end headers (RFC 1421 section 4.4).
            (None, Some(_)) if text.is_empty() => {}
            (None, Some((_, _, content))) => {
                content.extend(text.split_whitespace());
            }
            (Some(Boundary::Begin(label)), None) => {
                open = Some((line, label, Zeroizing::new(room(label, whole))));
            }
            (Some(Boundary::End(end)), Some((begun, label, content))) if end == *label => {
                documents.push(decode(label, content, *begun)?);
                open = None;
            }
            (Some(_), Some((begun, label, _))) => return Err(no_end(*begun, label)),
            (Some(Boundary::End(label)), None) => {
                let label = label.to_owned();
                return Err(PemError::Unmatched { line, label, missing: "-----BEGIN" });
            }
        }
    }
    match open {
        Some((line, label, _)) => Err(no_end(line, label)),
        None => Ok(documents),
    }
}

fn no_end(line: usize, label: &str) -> PemError {
    PemError::Unmatched { line, label: label.to_owned(), missing: "-----END" }
}

/// A text for the content of a document, which a private key never outgrows: the place that it would
/// leave is not overwritten.
fn room(label: &str, whole: usize) -> String {
    String::with_capacity(if label.ends_with("PRIVATE KEY") { whole } else { 0 })
}

enum Boundary<'a> {
    Begin(&'a str),
    End(&'a str),
}

/// The boundary that a line is; `None`: it is an ordinary line.
fn boundary(text: &str, line: usize) -> Result<Option<Boundary<'_>>, PemError> {
    if !text.contains(DASHES) {
        return Ok(None);
    }
    let inner = text.strip_prefix(DASHES).and_then(|rest| rest.strip_suffix(DASHES));
    // No label has a dash at its ends or two in a row (RFC 7468 section 3).
    let label = |rest: &str| !rest.is_empty() && !rest.contains("--") && rest.trim() == rest;
    let found = inner.and_then(|inner| {
        let begin = inner.strip_prefix("BEGIN ").filter(|rest| label(rest)).map(Boundary::Begin);
        begin.or_else(|| inner.strip_prefix("END ").filter(|rest| label(rest)).map(Boundary::End))
    });
    match found {
        Some(boundary) => Ok(Some(boundary)),
        None => {
            let shown = text.chars().take(80).collect();
            Err(PemError::Boundary { line, text: shown })
        }
    }
}

fn decode(label: &str, content: &str, line: usize) -> Result<Document, PemError> {
    let fail = |why: String| PemError::Content { line, label: label.to_owned(), why };
    // RFC 1421 section 4.6: old private keys with a passphrase.
    if content.contains("ENCRYPTED") && content.contains(':') {
        return Err(fail(format!("it has a passphrase{}", cure("ENCRYPTED PRIVATE KEY"))));
    }
    let decoded = STANDARD.decode(content).map_err(|error| fail(error.to_string()))?;
    if decoded.is_empty() {
        return Err(fail("it is empty".into()));
    }
    Ok(Document { label: label.to_owned(), der: Zeroizing::new(decoded), line })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
    const TWO: &str = "-----BEGIN CERTIFICATE-----\nBAUG\n-----END CERTIFICATE-----\n";

    fn ders(text: &str) -> Result<Vec<Vec<u8>>, String> {
        documents(text, &["CERTIFICATE"])
            .map(|found| found.into_iter().map(|one| one.der.to_vec()).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_document_is_returned_whatever_stands_around_it() {
        let both = Ok(vec![vec![1, 2, 3], vec![4, 5, 6]]);
        for text in [
            format!("{ONE}{TWO}"),
            format!("\u{feff}{ONE}\u{feff}{TWO}"),
            format!("subject=CN = x\n\n{ONE}\nissuer=CN = y\n{TWO}notes\n"),
            format!("{ONE}{TWO}").replace('\n', "\r\n"),
            format!("{ONE}{TWO}").replace("AQID", " A\tQ\n\nID "),
            format!("{ONE}{TWO}").trim_end().to_owned(),
        ] {
            assert_eq!(ders(&text), both, "{text:?}");
        }
    }

    #[test]
    fn what_was_written_is_read_again_and_is_as_others_write_it() {
        assert_eq!(*encode("CERTIFICATE", &[1, 2, 3]), ONE);
        for length in [0, 1, 47, 48, 49, 96, 1000] {
            let der = vec![7; length];
            let text = encode("PRIVATE KEY", &der);
            assert!(text.lines().all(|line| line.len() <= LINE) && text.ends_with("-----\n"));
            assert!(text.capacity() < text.len() + LINE, "{length}: it grew");
            match one(&text, &["PRIVATE KEY"]) {
                Ok(document) => assert_eq!(*document.der, der),
                Err(error) => assert!(length == 0, "{length}: {error}"),
            }
        }
    }

    #[test]
    fn whatever_looks_like_pem_and_is_not_is_refused_with_its_line() {
        let joined = format!("{}{TWO}", ONE.trim_end());
        let trusted = TWO.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
        for (text, expected) in [
            (String::new(), "no PEM"),
            ("a leaf".to_owned(), "no PEM"),
            (joined, "line 3: \"-----END CERTIFICATE----------BEGIN CERTIFICATE-----\""),
            (format!("{ONE}{trusted}"), "line 4: a TRUSTED CERTIFICATE, but only CERTIFICATE"),
            (format!("{ONE}-----BEGIN CERTIFICATE-----\nBAUG\n"), "line 4: CERTIFICATE has no"),
            (format!("{ONE}-----END CERTIFICATE-----\n"), "line 4: CERTIFICATE has no matching"),
            (format!("-----BEGIN CERTIFICATE-----\n{ONE}"), "line 1: CERTIFICATE has no"),
            (ONE.replace("END CERT", "END PRIVATE CERT"), "line 1: CERTIFICATE has no matching"),
            (ONE.replace("-----END", "----END"), "line 3: \"----END CERTIFICATE-----\" is not one"),
            (ONE.replace("BEGIN CERT", "BEGINCERT"), "line 1: \"-----BEGINCERTIFICATE-----\""),
            (ONE.replace("AQID", "AQ*D"), "line 1: CERTIFICATE: "),
            (ONE.replace("AQID", "AQI"), "line 1: CERTIFICATE: "),
            (ONE.replace("AQID\n", ""), "line 1: CERTIFICATE: it is empty"),
            (ONE.replace("AQID", "Proc-Type: 4,ENCRYPTED\n\nAQID"), "passphrase"),
        ] {
            let error = ders(&text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_second_document_is_refused_where_one_is_wanted() {
        let error = one(&format!("{ONE}{TWO}"), &["CERTIFICATE"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 4: a second CERTIFICATE; this file must have exactly one"
        );
        assert_eq!(one(ONE, &["CERTIFICATE"]).unwrap().der.to_vec(), [1, 2, 3]);
        assert!(!format!("{:?}", one(ONE, &["CERTIFICATE"])).contains("[1, 2, 3]"));
    }
}
