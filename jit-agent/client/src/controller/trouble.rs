//! Why a call of the controller has no answer, or another than was asked for: whole sentences.

use std::{error::Error, time::Duration};

use reqwest::StatusCode;
use rustls::{CertificateError, Error as TlsError};
use serde::Deserialize;

use super::types::TextMistake;
use crate::{CallError, text};

/// What a refusal says ([`super::types::Problem`]); everything may be missing, as it does where a proxy
/// answers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    next: String,
    word: String,
    field: String,
    mistakes: Vec<TextMistake>,
    request_id: String,
}

/// The same as Azure writes it: the answers below `/subscriptions`.
#[derive(Deserialize)]
struct Azure {
    error: AzureError,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AzureError {
    code: String,
    message: String,
    target: Option<String>,
    /// The first has the controller's own word, and what to do next.
    details: Vec<Self>,
}

impl From<Azure> for Problem {
    fn from(Azure { error }: Azure) -> Self {
        let own = error.details.into_iter().next().unwrap_or_default();
        Self {
            word: if own.code.is_empty() { error.code } else { own.code },
            detail: error.message,
            next: own.message,
            field: error.target.unwrap_or_default(),
            ..Self::default()
        }
    }
}

impl Problem {
    fn read(body: &[u8]) -> Self {
        match serde_json::from_slice::<Azure>(body) {
            Ok(azure) => azure.into(),
            Err(_) => serde_json::from_slice(body).unwrap_or_default(),
        }
    }

    /// What it says, and what to do next.
    fn sentence(&self) -> String {
        let said = if self.detail.is_empty() { &self.title } else { &self.detail };
        let mut out = match self.field.as_str() {
            field if !field.is_empty() && !said.contains(field) => format!("{field}: {said}"),
            _ => said.clone(),
        };
        let told = |mistake: &TextMistake| self.mistakes.len() == 1 && said.contains(&mistake.text);
        let mistakes = self.mistakes.iter().filter(|mistake| !told(mistake));
        for TextMistake { line, column, text } in mistakes {
            out += &match (line, column) {
                (0, _) => format!("\n  {text}"),
                (line, 0) => format!("\n  line {line}: {text}"),
                (line, column) => format!("\n  line {line}, column {column}: {text}"),
            };
        }
        if !self.next.is_empty() {
            out += if out.contains('\n') { "\n" } else { "; " };
            out += &self.next;
        }
        out
    }
}

/// The refusal in an answer.
pub(super) fn refused(name: &str, status: StatusCode, body: &[u8]) -> CallError {
    let problem = Problem::read(body);
    let (said, word) = (problem.sentence(), problem.word.as_str());
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        let said = if said.is_empty() { "it gives no reason" } else { &said };
        let call = match problem.request_id.as_str() {
            "" => String::new(),
            id => format!(", call {id} in its log"),
        };
        return CallError::Unavailable(format!(
            "the controller at {name} could not answer: {said} (HTTP {}{call}); try again",
            status.as_u16()
        ));
    }
    if status == StatusCode::UNAUTHORIZED {
        let word = if word.is_empty() { "not_authenticated" } else { word };
        let said = if said.is_empty() { "the token is unknown or has ended" } else { &said };
        let next = if said.contains("jitctl login") { "" } else { "; log in again: jitctl login" };
        return CallError::refused(word, &format!("{said}{next}"));
    }
    if word.is_empty() && said.is_empty() {
        return CallError::Unavailable(format!(
            "{name} answered HTTP {}, as no controller does; check the address",
            status.as_u16()
        ));
    }
    let word = match status {
        _ if !word.is_empty() => word,
        StatusCode::CONFLICT => "conflict",
        StatusCode::FORBIDDEN => "not_permitted",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::PRECONDITION_FAILED => "changed",
        _ => "invalid",
    };
    if !problem.mistakes.is_empty() {
        // They are in a file of this side.
        return CallError::Files(format!("refused: {word}: {said}"));
    }
    CallError::refused(word, &said)
}

/// Why there is no answer.
pub(super) fn explain(
    name: &str,
    error: &reqwest::Error,
    patience: Duration,
    may_repeat: bool,
) -> CallError {
    let mut cause: &(dyn Error + 'static) = error;
    let mut tls = None;
    loop {
        tls = tls.or_else(|| cause.downcast_ref::<TlsError>());
        match inner(cause) {
            Some(next) => cause = next,
            None => break,
        }
    }
    let why = if let Some(tls) = tls {
        certificate(tls)
    } else if error.is_timeout() {
        format!("no answer within {} (--timeout waits longer)", text::duration(patience))
    } else if error.is_connect() {
        format!("{cause}; check the address, and whether the controller is running")
    } else {
        format!("the connection broke: {cause}")
    };
    let unsure = !may_repeat && !error.is_connect();
    let unsure =
        if unsure { "; it may have been done all the same: look before you repeat it" } else { "" };
    CallError::Unavailable(format!("cannot talk to the controller at {name}: {why}{unsure}"))
}

/// The next link of a chain of causes. An I/O error gives the cause of its content, not the content.
fn inner<'e>(cause: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(content) => Some(content),
        None => cause.source(),
    }
}

fn certificate(error: &TlsError) -> String {
    match error {
        TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "its certificate comes from no CA that is trusted here; give the CA at the login: \
              jitctl login --ca FILE, or find out who answers at that address"
            .into(),
        TlsError::InvalidCertificate(
            cause @ (CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. }),
        ) => format!("its certificate is for another name ({cause}); use a name that it bears"),
        TlsError::InvalidCertificate(
            cause @ (CertificateError::Expired | CertificateError::ExpiredContext { .. }),
        ) => format!(
            "its certificate has expired ({cause}); renew it, or check the clock of this machine"
        ),
        TlsError::InvalidCertificate(cause) => {
            format!("its certificate is not acceptable: {cause}")
        }
        TlsError::InvalidMessage(_) => {
            format!("the other side does not speak TLS ({error}); check address and port")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: StatusCode, body: &str) -> CallError {
        refused("https://c.example", status, body.as_bytes())
    }

    #[test]
    fn a_problem_is_a_refusal_with_its_word() {
        let body = r#"{"title":"x","detail":"ana asked for it","word":"self_approval"}"#;
        let refused = refusal(StatusCode::FORBIDDEN, body);
        assert_eq!(refused, CallError::refused("self_approval", "ana asked for it"));
        let body = r#"{"detail":"it is empty","word":"invalid","field":"reason","next":""}"#;
        let refused = refusal(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(refused, CallError::refused("invalid", "reason: it is empty"));
        let refused = refusal(StatusCode::NOT_FOUND, r#"{"title":"no such request"}"#);
        assert_eq!(refused, CallError::refused("not_found", "no such request"));
    }

    #[test]
    fn an_error_of_azures_form_has_the_controllers_own_word() {
        let body = r#"{"error":{"code":"AuthorizationFailed","message":"not web-1","target":null,
            "details":[{"code":"forbidden","message":"ask another"}]}}"#;
        let refused = refusal(StatusCode::FORBIDDEN, body);
        assert_eq!(refused, CallError::refused("forbidden", "not web-1; ask another"));
        let body = r#"{"error":{"code":"BadRequest","message":"no","target":"kind"}}"#;
        let refused = refusal(StatusCode::BAD_REQUEST, body);
        assert_eq!(refused, CallError::refused("BadRequest", "kind: no"));
    }

    #[test]
    fn mistakes_in_a_text_are_named_with_their_lines() {
        let body = r#"{"detail":"the rules have a mistake","word":"invalid","next":"mend it",
            "mistakes":[{"line":3,"column":7,"text":"no entity Hots"},{"line":4,"text":"x","column":0}]}"#;
        let refused = refusal(StatusCode::UNPROCESSABLE_ENTITY, body);
        let end =
            "the rules have a mistake\n  line 3, column 7: no entity Hots\n  line 4: x\nmend it";
        assert!(matches!(&refused, CallError::Files(said) if said.ends_with(end)), "{refused}");
        let body = r#"{"detail":"line 3: no port","word":"invalid","next":"mend it",
            "mistakes":[{"line":3,"column":0,"text":"no port"}]}"#;
        let refused = refusal(StatusCode::UNPROCESSABLE_ENTITY, body);
        let said = "refused: invalid: line 3: no port; mend it";
        assert_eq!(refused, CallError::Files(said.into()));
    }

    #[test]
    fn without_an_account_the_next_step_is_a_login() {
        let CallError::Refused { word, detail } = refusal(StatusCode::UNAUTHORIZED, "") else {
            panic!("refused")
        };
        assert_eq!(word, "not_authenticated");
        assert!(detail.ends_with("jitctl login"), "{detail}");
    }

    #[test]
    fn a_fault_of_the_server_is_no_refusal() {
        for (status, body) in [
            (StatusCode::INTERNAL_SERVER_ERROR, r#"{"detail":"x","word":"internal"}"#),
            (StatusCode::TOO_MANY_REQUESTS, ""),
            (StatusCode::BAD_GATEWAY, "<html>"),
            (StatusCode::MOVED_PERMANENTLY, ""),
        ] {
            assert!(matches!(refusal(status, body), CallError::Unavailable(_)), "{status}");
        }
    }
}
