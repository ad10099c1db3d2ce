//! One call of the controller's API, before it is sent.

use std::time::Duration;

use reqwest::Method;
use serde::Serialize;

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) method: Method,
    /// The path's parts after `/api/v1`, or after the controller's address.
    pub(super) path: Vec<String>,
    /// It is not below `/api/v1`.
    pub(super) at_root: bool,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<Body>,
    /// With it the call may be sent twice and is done once.
    pub(super) key: Option<String>,
    pub(super) if_match: Option<String>,
    /// The longest wait for the answer, if not the usual one.
    pub(super) patience: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) kind: &'static str,
    pub(super) bytes: Vec<u8>,
}

impl Call {
    fn new<P: Into<String>>(method: Method, path: impl IntoIterator<Item = P>) -> Self {
        let path = path.into_iter().map(Into::into).collect();
        Self {
            method,
            path,
            at_root: false,
            query: Vec::new(),
            body: None,
            key: None,
            if_match: None,
            patience: None,
        }
    }

    /// Reads.
    pub fn get<P: Into<String>>(path: impl IntoIterator<Item = P>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Does or makes something.
    pub fn post<P: Into<String>>(path: impl IntoIterator<Item = P>) -> Self {
        Self::new(Method::POST, path)
    }

    /// Writes all of something.
    pub fn put<P: Into<String>>(path: impl IntoIterator<Item = P>) -> Self {
        Self::new(Method::PUT, path)
    }

    /// Changes a part of something.
    pub fn patch<P: Into<String>>(path: impl IntoIterator<Item = P>) -> Self {
        Self::new(Method::PATCH, path)
    }

    /// Removes.
    pub fn delete<P: Into<String>>(path: impl IntoIterator<Item = P>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// With a path that begins at the controller's address, not at its `/api/v1`.
    #[must_use]
    pub const fn at_root(mut self) -> Self {
        self.at_root = true;
        self
    }

    /// With a parameter; an empty one is left out.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.query.push((name, value));
        }
        self
    }

    /// With a JSON body.
    ///
    /// # Panics
    /// Never for the types of the API: their fields are texts, numbers and lists.
    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(body).expect("the API's types are JSON");
        self.body = Some(Body { kind: "application/json", bytes });
        self
    }

    /// With the text of a file.
    #[must_use]
    pub fn text(mut self, kind: &'static str, text: impl Into<Vec<u8>>) -> Self {
        self.body = Some(Body { kind, bytes: text.into() });
        self
    }

    /// Done once, also when it is sent twice: an id of this call that is never used again.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only if it still has this version ([`super::http::Answer::etag`]).
    #[must_use]
    pub fn if_match(mut self, version: impl Into<String>) -> Self {
        self.if_match = Some(version.into());
        self
    }

    /// Waits this long for the answer.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Whether sending it twice does what sending it once does.
    pub fn may_repeat(&self) -> bool {
        // A change of one version fails the second time: nobody could say who made it.
        match self.method {
            Method::POST | Method::PATCH => self.key.is_some(),
            _ => self.if_match.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_done_twice_is_tried_again() {
        assert!(Call::get(["me"]).may_repeat());
        assert!(Call::put(["hosts", "web-1"]).may_repeat());
        assert!(Call::delete(["hosts", "web-1"]).may_repeat());
        assert!(Call::post(["requests"]).key("k").may_repeat());
        assert!(!Call::post(["tokens"]).may_repeat());
        assert!(!Call::patch(["hosts", "web-1"]).may_repeat());
        assert!(!Call::put(["rules"]).if_match("\"3\"").may_repeat());
    }

    #[test]
    fn an_empty_parameter_is_left_out() {
        let call = Call::get(["requests"]).query("state", "").query("limit", 5);
        assert_eq!(call.query, [("limit", "5".to_owned())]);
    }
}
