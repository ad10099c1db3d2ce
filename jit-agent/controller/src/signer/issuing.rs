//! The authority of hosts' certificates, open: its key is in this process, and nowhere else on the
//! machine. It issues for the host that it is asked for: who may be which host is decided before
//! (`enrol`), and a controller that is broken into asks for what it wants. So it has a rate of its
//! own.

use ring::rand::{SecureRandom as _, SystemRandom};

use super::{
    authority::{AuthoritySettings, CertificateWish},
    limits::Rate,
    refused::Refused,
};
use crate::enrol::{
    issue::{Issued, Issuer},
    request::Request,
};

/// The authority, open.
pub(super) struct Held {
    issuer: Issuer,
    rate: Rate,
    most: u32,
    random: SystemRandom,
}

/// Why no certificate was issued.
pub(super) enum NotIssued {
    /// Never.
    Refused(Refused),
    /// Not now, in words.
    TooFast(String),
}

impl Held {
    pub(super) fn open(settings: &AuthoritySettings) -> Result<Self, String> {
        let most = settings.certificates_a_minute;
        let rate = Rate::new(most, []);
        Ok(Self { issuer: settings.open()?, rate, most, random: SystemRandom::new() })
    }

    pub(super) fn issue(
        &mut self,
        wish: &CertificateWish,
        now_ms: i64,
    ) -> Result<Issued, NotIssued> {
        let malformed = |detail: String| NotIssued::Refused(Refused { word: "malformed", detail });
        let request = Request::read(&wish.csr).map_err(|why| malformed(why.to_string()))?;
        self.rate.take(now_ms).map_err(|left| {
            let most = self.most;
            NotIssued::TooFast(format!(
                "too_fast: at most {most} certificates a minute (authority.certificates_a_minute); \
                 again in {left} ms"
            ))
        })?;
        let mut random = [0; 16];
        let fresh = self.random.fill(&mut random);
        fresh.map_err(|_| NotIssued::TooFast("the kernel has no random bytes".into()))?;
        let issued = self.issuer.issue(&request, &wish.host, &wish.dns, random, now_ms);
        issued.map_err(|why| malformed(why.to_string()))
    }
}
