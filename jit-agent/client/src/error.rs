//! Why a call failed: a file, a refusal, or no agent.

/// Why a call failed. The texts are whole sentences, and may contain text from the agent: escape
/// them before they reach a terminal ([`jit_proto::printable`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// A file that the call needs is missing, unreadable or wrong.
    #[error("{0}")]
    Files(String),
    /// The agent refused.
    #[error("refused: {word}: {detail}")]
    Refused {
        /// The stable reason word ([`jit_proto::Refusal`]), as the agent sent it.
        word: String,
        /// The agent's sentence about it; never empty.
        detail: String,
    },
    /// No agent was reached, it did not answer in time, or the connection broke.
    #[error("{0}")]
    Unavailable(String),
}

impl CallError {
    /// A refusal from the reason word and the detail of an answer.
    pub fn refused(word: &str, detail: &str) -> Self {
        // Some details begin with the word, for clients that read only the detail.
        let detail =
            detail.strip_prefix(word).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(detail);
        let detail = if detail.is_empty() { "the agent gives no detail" } else { detail };
        Self::Refused { word: word.to_owned(), detail: detail.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_the_word_and_the_detail() {
        let refused = CallError::refused("wrong_host", "for db-1, this is web-1");
        assert_eq!(refused.to_string(), "refused: wrong_host: for db-1, this is web-1");
        assert_eq!(
            CallError::refused("wrong_host", "wrong_host: for db-1, this is web-1"),
            refused
        );
        let bare = CallError::refused("wrong_host", "");
        assert_eq!(bare.to_string(), "refused: wrong_host: the agent gives no detail");
    }
}
