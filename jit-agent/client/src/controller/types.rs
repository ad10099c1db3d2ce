//! The JSON of the controller's API, for its server and its clients.
//!
//! Times are there twice: as RFC 3339 text in UTC for people, and as milliseconds since the Unix epoch
//! (`_ms`) for programs. Durations likewise (`1h 30m`). A field that has no value is `null`. What a
//! client sends may have no field that the server does not know: a wrong name never vanishes silently.
//! Words (`state`, `answer`, `word`) are texts, so that a client reads those of a later server.

mod audit;
mod enrolments;
mod hosts;
mod people;
mod problem;
mod requests;
mod revocations;
mod rollouts;
mod rules;
mod webhooks;

pub use audit::{AccessEntry, AccessView, AuditView};
pub use enrolments::{
    EnrolmentAnswer, EnrolmentDecisionInput, EnrolmentInput, EnrolmentTokenInput,
    EnrolmentTokenMade, EnrolmentTokenView, EnrolmentView, NonceView,
};
pub use hosts::{AlarmView, HostInput, HostPortView, HostView, ImportResult};
pub use people::{
    AccountInput, AccountKeyInput, AccountKeyView, AccountView, AddressCandidate, AddressView,
    MailInput, MailView, MeView, PasskeyView, PasswordInput, SCOPES, TokenInput, TokenMade,
    TokenView,
};
pub use problem::{Page, Problem, TextMistake};
pub use requests::{
    AnswerCounts, AnswerView, DecisionInput, DecisionView, EligibleView, ExtendInput, GrantView,
    Need, NewRequest, Preview, ReasonInput, RequestSummary, RequestView, RuleTrace, ShortenInput,
    SignatureInput, SignatureView, VerdictView,
};
pub use revocations::{
    RevocationHostView, RevocationInput, RevocationPreview, RevocationView, RevokedWhat,
};
pub use rollouts::{
    PolicyInput, PolicyPreview, PolicyView, RolloutCount, RolloutHostView, RolloutInput,
    RolloutPlan, RolloutView, WavePlan,
};
pub use rules::{RulesCaseView, RulesDiff, RulesInput, RulesTestInput, RulesTestResult, RulesView};
pub use webhooks::{WebhookInput, WebhookMade, WebhookView};
