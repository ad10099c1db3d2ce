//! Why something was not done, as problem details (RFC 9457).
//!
//! A handler returns a [`Failure`]. The outermost layer (`frame`) adds the path and the id of the call,
//! and writes it; so does what no handler made: a path that does not exist, a body that is too large.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jit_client::controller::types::TextMistake;

use crate::{desk::DeskError, fleet::FleetError, store::StoreError};

/// Media type of problem details.
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! words {
    ($($(#[$doc:meta])* $variant:ident = $word:literal $status:ident $title:literal $next:literal,)*) => {
        /// What kind of problem it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Word { $($(#[$doc])* $variant,)* }

        impl Word {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable word.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            const fn next(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }
        }
    };
}

words! {
    /// The account may do nothing any more.
    AccountDisabled = "account_disabled" UNAUTHORIZED "The account is disabled"
        "ask an administrator to enable it",
    /// The provider's token names somebody without an account.
    AccountMissing = "account_missing" UNAUTHORIZED "Whom the token names has no account here"
        "an administrator makes one: `jitctl accounts set NAME --subject SUBJECT`; a token makes none",
    /// The desk refused: somebody has decided before.
    AlreadyDecided = "already_decided" CONFLICT "This person has decided before"
        "read the request again",
    /// Hosts do not enrol here.
    EnrolmentOff = "enrolment_off" CONFLICT "Hosts cannot enrol at this controller"
        "an administrator writes `[enrolment]` and `[signer.authority]`: docs/controller-enrolment.md",
    /// A machine is not believed.
    EnrolmentRefused = "enrolment_refused" FORBIDDEN "The machine is not believed to be this host"
        "an administrator can make a token: `jitctl enrolments token create`",
    /// Not for this account.
    Forbidden = "forbidden" FORBIDDEN "This account may not do it"
        "ask one of those who may; an administrator can change rules and groups",
    /// It was changed after it was read.
    Changed = "changed" CONFLICT "It was changed meanwhile"
        "read it again, and decide about what it says now",
    /// Something that is not there, or that the caller may not see.
    NotFound = "not_found" NOT_FOUND "There is no such thing, or you may not see it"
        "check the id; lists show what you may see",
    /// A host refused, or does not answer.
    Host = "host_silent" BAD_GATEWAY "A host refused, or does not answer"
        "look at the host: `jitctl hosts`",
    /// A field is wrong.
    Invalid = "invalid" UNPROCESSABLE_ENTITY "A field is wrong"
        "correct the field, and send it again",
    /// An inventory has mistakes.
    InvalidInventory = "invalid_inventory" UNPROCESSABLE_ENTITY "The inventory has mistakes"
        "correct the lines that `mistakes` names, and send it again; nothing was changed",
    /// The body is no JSON, or not of the right form.
    InvalidBody = "invalid_body" BAD_REQUEST "The body cannot be read"
        "compare it with /api/openapi.json",
    /// The parameters cannot be read.
    InvalidQuery = "invalid_query" BAD_REQUEST "A parameter cannot be read"
        "compare them with /api/openapi.json",
    /// The body's length is not given.
    Length = "length_required" LENGTH_REQUIRED "The body's length is not given"
        "send it with Content-Length, without Transfer-Encoding; or use HTTP/2",
    /// Another media type is needed.
    MediaType = "media_type" UNSUPPORTED_MEDIA_TYPE "The body has another media type than is needed"
        "set the header Content-Type",
    /// The path exists, the method does not.
    Method = "method_not_allowed" METHOD_NOT_ALLOWED "This path has no such method"
        "compare it with /api/openapi.json",
    /// No rules, host or state of the request allow it now.
    Conflict = "conflict" CONFLICT "It cannot be done now"
        "read it again",
    /// The version in `If-Match` is not the one in force.
    PreconditionFailed = "precondition_failed" PRECONDITION_FAILED "Somebody else has changed it"
        "read it again, join the changes, and send it with the new ETag",
    /// `If-Match` is missing.
    PreconditionRequired = "precondition_required" PRECONDITION_REQUIRED "The header If-Match is missing"
        "read it, and send the change with its ETag in If-Match",
    /// Too much was sent.
    TooLarge = "too_large" PAYLOAD_TOO_LARGE "The body is too large"
        "send less at once",
    /// Too often.
    TooMany = "too_many_requests" TOO_MANY_REQUESTS "Too many calls"
        "wait as long as Retry-After says",
    /// The token lacks a scope.
    ScopeMissing = "scope_missing" FORBIDDEN "The token has not the scope that this needs"
        "make a token with the scope",
    /// There is no token.
    TokenMissing = "token_missing" UNAUTHORIZED "A token is missing"
        "send the header `Authorization: Bearer jit_...`; `jitctl login` keeps one",
    /// The token has ended.
    TokenEnded = "token_ended" UNAUTHORIZED "The token has ended"
        "make another one",
    /// A token of the provider does not count.
    TokenRefused = "token_refused" UNAUTHORIZED "The provider's access token does not count"
        "get a new one, for the audience that [oidc] of the controller names; docs/portal.md says what counts",
    /// The token was revoked.
    TokenRevoked = "token_revoked" UNAUTHORIZED "The token was revoked"
        "make another one",
    /// There is no such token.
    TokenUnknown = "token_unknown" UNAUTHORIZED "There is no such token"
        "check that it was copied whole: jit_ and 43 letters",
    /// It took too long.
    Timeout = "timeout" GATEWAY_TIMEOUT "It took too long"
        "try again with the same Idempotency-Key",
    /// What it needs does not work now.
    Unavailable = "unavailable" SERVICE_UNAVAILABLE "A part of the controller does not answer"
        "try again with the same Idempotency-Key; the log has more under the id of this call",
    /// A defect.
    Internal = "internal" INTERNAL_SERVER_ERROR "The controller failed"
        "look into the log for the id of this call, and report it",
}

/// Why something was not done.
#[derive(Clone, Debug)]
pub struct Failure(Box<Parts>);

/// The parts of a [`Failure`].
#[derive(Clone, Debug)]
pub struct Parts {
    /// HTTP status.
    pub status: StatusCode,
    /// The stable word.
    pub word: String,
    /// The kind in a few words.
    pub title: &'static str,
    /// What was tried, on what, and why it was not done.
    pub detail: String,
    /// What to do next.
    pub next: String,
    /// The field that is wrong; empty: none alone.
    pub field: String,
    /// Mistakes in a text.
    pub mistakes: Vec<TextMistake>,
    /// When it can be tried again, in seconds.
    pub retry_after_s: Option<u64>,
    /// What only the log says: it may name files or statements.
    pub log: String,
    /// The refusal is in the audit already.
    pub recorded: bool,
}

impl Failure {
    /// A problem of this kind, in words.
    pub fn new(word: Word, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status: word.status(),
            word: word.text().to_owned(),
            title: word.title(),
            detail: detail.into(),
            next: word.next().to_owned(),
            field: String::new(),
            mistakes: Vec::new(),
            retry_after_s: None,
            log: String::new(),
            recorded: false,
        }))
    }

    /// A field of what was sent is wrong.
    pub fn field(field: &str, why: impl Into<String>) -> Self {
        let mut failure = Self::new(Word::Invalid, why);
        failure.0.field = field.to_owned();
        failure
    }

    /// There is no such thing, or the caller may not see it: both look the same.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(Word::NotFound, format!("there is no {what} {id:?} that you may see"))
    }

    /// The account may not do it, by name.
    pub fn refused(word: &str, detail: impl Into<String>) -> Self {
        let mut failure = Self::new(Word::Forbidden, detail);
        word.clone_into(&mut failure.0.word);
        failure
    }

    /// It failed for a reason that only the log names.
    pub fn hidden(word: Word, log: impl std::fmt::Display) -> Self {
        let mut failure =
            Self::new(word, "the controller's log says why, under the id of this call");
        failure.0.log = log.to_string();
        failure
    }

    /// The same with another advice.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.0.next = next.into();
        self
    }

    /// The same with mistakes in a text.
    pub fn mistakes(mut self, mistakes: Vec<TextMistake>) -> Self {
        self.0.mistakes = mistakes;
        self
    }

    /// The same with a time after which it can be tried again.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// The one of a status that no handler made.
    pub(super) fn of_status(status: StatusCode, detail: String) -> Self {
        let word = match status {
            StatusCode::NOT_FOUND => Word::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Word::Method,
            StatusCode::PAYLOAD_TOO_LARGE => Word::TooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Word::MediaType,
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Word::Timeout,
            StatusCode::TOO_MANY_REQUESTS => Word::TooMany,
            status if status.is_server_error() => Word::Internal,
            _ => Word::InvalidBody,
        };
        Self::new(word, detail)
    }

    /// Its parts.
    pub fn parts(&self) -> &Parts {
        &self.0
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(what) => {
                Self::new(Word::Changed, format!("{what} was changed meanwhile"))
            }
            StoreError::Unreachable(_)
            | StoreError::Database(
                sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) | sqlx::Error::PoolClosed,
            ) => Self::hidden(Word::Unavailable, error).retry_after(1),
            StoreError::Corrupt { .. }
            | StoreError::Database(_)
            | StoreError::Migration(_)
            | StoreError::Newer(_) => Self::hidden(Word::Internal, error),
        }
    }
}

impl From<DeskError> for Failure {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Conflict(why) => Self::new(Word::Conflict, why),
            DeskError::Forbidden { word, detail } => {
                let kind = match word {
                    "already_decided" | "already_signed" => Word::AlreadyDecided,
                    "changed" => Word::Changed,
                    "not_open" | "not_pending" | "too_late" => Word::Conflict,
                    _ => Word::Forbidden,
                };
                let mut failure = Self::new(kind, detail);
                word.clone_into(&mut failure.0.word);
                failure.0.recorded = true;
                failure
            }
            DeskError::Invalid { field, why } => Self::field(field, why),
            DeskError::NotFound(what) => {
                Self::new(Word::NotFound, format!("there is no {what} that you may see"))
            }
            DeskError::Store(error) => error.into(),
            DeskError::Signer(why) => Self::hidden(Word::Unavailable, why).retry_after(1),
        }
    }
}

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Agent(error) => Self::new(Word::Host, error.to_string()),
            FleetError::Conflict(why) => Self::new(Word::Conflict, why),
            FleetError::Desk(error) => error.into(),
            FleetError::Invalid(why) => Self::new(Word::Invalid, why),
            FleetError::NotFound(what) => Self::new(Word::NotFound, format!("there is no {what}")),
            FleetError::Store(error) => error.into(),
            FleetError::Unreachable(why) => Self::new(Word::Host, why),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Word;

    #[test]
    fn words_are_unique_and_say_what_to_do_next() {
        let words: BTreeSet<_> = Word::ALL.iter().map(|word| word.text()).collect();
        assert_eq!(words.len(), Word::ALL.len());
        for word in Word::ALL {
            assert!(!word.next().is_empty(), "{}", word.text());
            assert!(word.status().as_u16() >= 400, "{}", word.text());
        }
    }
}
