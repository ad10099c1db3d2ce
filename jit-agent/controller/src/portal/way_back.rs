//! Where somebody goes on after the sign-in: to a page of our own, and nowhere else.

/// Longest address that is gone back to.
const LONGEST: usize = 2000;

/// The address of the page to sign in, and to go on from there.
pub(super) fn sign_in(next: &str) -> String {
    let next = way_back(next);
    if next == "/" {
        return "/sign-in".into();
    }
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    format!("/sign-in?{query}")
}

/// An address of a page of our own to go on to; `/` in place of any other one. Browsers read
/// `//HOST` and `/\HOST` as other hosts, and leave out control characters.
pub(super) fn way_back(next: &str) -> &str {
    let own = next.len() <= LONGEST
        && next.starts_with('/')
        && !next.starts_with("//")
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !next.starts_with("/sign-");
    if own { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_of_our_own_is_gone_back_to() {
        for good in ["/", "/requests/01J9?x=1&y=%2F", "/open?host=web-1"] {
            assert_eq!(way_back(good), good);
        }
        for bad in [
            "",
            "//evil.example.org",
            "/\\evil.example.org",
            "/\t/evil.example.org",
            "/x\r\nSet-Cookie: a=b",
            "https://evil.example.org",
            "javascript:alert(1)",
            "/sign-out",
            "/sign-in?next=/",
            "/ü",
            &format!("/{}", "x".repeat(LONGEST)),
        ] {
            assert_eq!(way_back(bad), "/", "{bad}");
        }
        assert_eq!(sign_in("/open?host=a b"), "/sign-in");
        assert_eq!(sign_in("/open?host=a&x=1"), "/sign-in?next=%2Fopen%3Fhost%3Da%26x%3D1");
    }
}
