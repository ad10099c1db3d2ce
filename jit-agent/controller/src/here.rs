//! This machine, and addresses elsewhere to which a secret may go.

use reqwest::Url;

/// Whether a host is this machine: what goes there is seen by nobody on the way.
pub(crate) fn is_here(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "::1" | "[::1]" | "localhost")
}

/// An URL that nobody on the way can read or change: `https`, or this machine.
///
/// # Errors
/// Why it is none.
pub(crate) fn secure(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|why| format!("{text:?} is no URL: {why}"))?;
    let bare = url.username().is_empty() && url.password().is_none();
    match url.scheme() {
        "https" if bare => Ok(url),
        "http" if bare && url.host_str().is_some_and(is_here) => Ok(url),
        _ => Err(format!("{text:?} does not begin with https:// and the name of a host")),
    }
}

#[cfg(test)]
mod tests {
    use super::secure;

    #[test]
    fn what_is_secret_goes_over_tls_or_stays_on_this_machine() {
        for good in [
            "https://idp.example.org/x",
            "http://127.0.0.1:1/",
            "http://[::1]:1",
            "http://localhost",
        ] {
            assert!(secure(good).is_ok(), "{good}");
        }
        for bad in ["http://idp.example.org", "https://a:b@idp.example.org", "ftp://localhost", "x"]
        {
            assert!(secure(bad).is_err(), "{bad}");
        }
    }
}
